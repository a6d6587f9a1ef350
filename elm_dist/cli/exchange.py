"""Commands that bring a run's weights elsewhere, and others' weights here: export, convert, import."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from elm_dist.cli.app import RunArgument, app

WeightsOption = Annotated[Literal["ema", "raw"], typer.Option(help="The averaged weights, or those of the step.")]
DtypeOption = Annotated[Literal["fp32", "bf16"], typer.Option(help="What to store them in.")]
StepOption = Annotated[int | None, typer.Option(min=0, help="Of the checkpoint; the newest good one by default.")]


@app.command()
def export(
    run: RunArgument,
    to: Annotated[
        Literal["safetensors", "huggingface", "llama", "official"],
        typer.Option(help="Our names; what transformers loads, or as a plain Llama; or the published weights' names."),
    ],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    weights: WeightsOption = "ema",
    dtype: DtypeOption = "fp32",
    step: StepOption = None,
    file_gb: Annotated[float, typer.Option(min=0.0001, help="Largest file, in GB (1e9 bytes).")] = 5.0,
) -> None:
    """Write a run's weights for others: in files of limited size, with a model card, checked before they appear."""
    from elm_dist.checkpoint.export import export_run
    from elm_dist.sampling.presets import load_config_to_sample

    sampling = load_config_to_sample(run, preset=None, overrides=[]).sampling
    exported = export_run(
        run, out, to, sampling=sampling, weights=weights, dtype=dtype, step=step, shard_bytes=int(file_gb * 1e9)
    )
    typer.echo(str(exported))


@app.command()
def convert(
    run: RunArgument,
    to: Annotated[Path, typer.Option(help="A new folder for model.safetensors and config.json.")],
    weights: WeightsOption = "ema",
    dtype: DtypeOption = "fp32",
    step: StepOption = None,
) -> None:
    """Write a run's weights as plain safetensors: what `elm export --to safetensors` does.

    Nothing else needs converting: a run goes on from its checkpoints on any layout as they are.
    """
    export(run, "safetensors", to, weights, dtype, step)


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Published weights: a .pth, or .safetensors.")],
    out: Annotated[Path, typer.Option(help="Folder for the tokenizer, or run.directory for the transformer.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="For a transformer: the folder of the tokenizer of its codes.")
    ] = None,
    shards: Annotated[
        Path | None, typer.Option(help="For a transformer: token shards for `elm evaluate`, if there are any.")
    ] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, help="For a transformer: of its attention; one for 64 channels by default.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="For a tokenizer: pixels per side that it was trained on; 256 by default.")
    ] = None,
) -> None:
    """Import published weights: ELM's transformers, and the tokenizers ELM's BAE, LlamaGen's VQ-16, taming's VQGAN."""
    from elm_dist.checkpoint.import_weights import import_weights as run

    typer.echo(run(file, out, tokenizer=tokenizer, shards=shards, heads=heads, image_size=image_size))

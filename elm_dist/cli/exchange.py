"""Commands that bring a run's weights elsewhere, and others' weights into a run: export, convert, import-model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from elm_dist.cli.app import ConfigArgument, Overrides, RunArgument, app

WeightsOption = Annotated[Literal["ema", "raw"], typer.Option(help="The averaged weights, or those of the step.")]
DtypeOption = Annotated[Literal["fp32", "bf16"], typer.Option(help="What to store them in.")]
StepOption = Annotated[int | None, typer.Option(min=0, help="Of the checkpoint; the newest good one by default.")]


@app.command()
def export(
    run: RunArgument,
    to: Annotated[
        Literal["safetensors", "huggingface", "official"],
        typer.Option(help="Our own names; a folder that transformers loads; or the names of the published weights."),
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


@app.command("import-model")
def import_model(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Published weights: a .pth, or .safetensors.")],
    config: ConfigArgument,
    overrides: Overrides = None,
) -> None:
    """Import the weights of a published transformer into the run.directory of CONFIG, to sample and export them."""
    from elm_dist.checkpoint.import_model import import_model
    from elm_dist.config_file import load_config

    settings = load_config(config, overrides or [])
    parameters = import_model(file, settings)
    typer.echo(f"{settings.run.directory}: {parameters:,} parameters as the checkpoint of step 0; see `elm sample`")

"""The `elm` command line: parses, calls one function, and turns errors into one sentence and exit code 2.

Heavy imports happen inside the commands: `elm check` must start at once and needs no torch.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from elm_dist.config_file import load_config
from elm_dist.errors import ElmError

app = typer.Typer(
    help="Train and sample ELM, the language model that draws images.", no_args_is_help=True, add_completion=False
)
tokenizer_app = typer.Typer(help="Train and judge the image tokenizer.", no_args_is_help=True)
app.add_typer(tokenizer_app, name="tokenizer")

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, as in configs/.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings laid over the file.")
]


@app.command()
def check(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="YAML files to read and check.")],
) -> None:
    """Check configurations without running them; report all their problems at once."""
    from elm_dist.model.cost import count_parameters

    problems = []
    for path in configs:
        try:
            config = load_config(path)
        except ElmError as error:
            problems.append(str(error))
        else:
            typer.echo(f"{path}: good, {count_parameters(config.model):,} parameters")
    if problems:
        raise ElmError("\n".join(problems))


@app.command()
def demo(
    config: ConfigArgument = Path("configs/demo.yaml"),
    images: Annotated[
        Path | None, typer.Option(help="Your own images instead: train/CLASS/*, validation/CLASS/*.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Run the whole chain on real images: tokenizer, shards, training, samples. Reuses what is done already."""
    from rich.console import Console

    from elm_dist.launch.demo import run_demo

    report = run_demo(config, images, overrides or [])
    Console().print(report, soft_wrap=True)
    raise typer.Exit(0 if report.is_proven else 1)


@tokenizer_app.command("train")
def train_tokenizer(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Train the tokenizer, or go on with it; `torchrun -m elm_dist tokenizer train ...` does it on many processes."""
    from elm_dist.training.tokenizer_trainer import train_tokenizer as run

    run(load_config(config, overrides))


@tokenizer_app.command("report")
def report_tokenizer(
    tokenizer: Annotated[Path, typer.Argument(metavar="TOKENIZER", help="Folder of a trained tokenizer.")],
    images: Annotated[Path, typer.Option(help="Folder with train/CLASS/* or train-*.tar, and validation likewise.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html and report.json.")],
    split: Annotated[
        Literal["validation", "train"], typer.Option(help="Which images to measure it on.")
    ] = "validation",
    count: Annotated[int, typer.Option(min=4, help="How many of them, evenly spread over the classes.")] = 5000,
    features: Annotated[
        Literal["mobilenet_v2", "inception", "none"],
        typer.Option(help="What the Frechet distance is measured in; it is FID with inception alone."),
    ] = "mobilenet_v2",
    inception_weights: Annotated[
        Path | None, typer.Option(help="pt_inception-2015-12-05-6726825d.pth, for --features inception.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images measured together.")] = 32,
) -> None:
    """Report how well a tokenizer gives images back and how it uses its codes, as JSON and a page with plots."""
    from elm_dist.analysis.tokenizer_report import PAGE_FILE
    from elm_dist.analysis.tokenizer_report import report_tokenizer as run

    report = run(
        tokenizer,
        images,
        out,
        split=split,
        count=count,
        features=features,
        inception_weights=inception_weights,
        batch_size=batch_size,
    )
    typer.echo(f"{report}\npage in {out / PAGE_FILE}")


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Published weights of a BAE or VQGAN.")],
    out: Annotated[Path, typer.Option(help="Folder for the tokenizer.")],
    image_size: Annotated[int, typer.Option(min=1, help="Pixels per side of the images that it was trained on.")] = 256,
) -> None:
    """Import a published tokenizer: ELM's BAE, LlamaGen's VQ-16 or taming's VQGAN f16."""
    from elm_dist.checkpoint.official import import_tokenizer

    config = import_tokenizer(file, out, image_size)
    typer.echo(f"{out}: a {config.kind} of {config.code_bits} bits, {config.grid} x {config.grid} codes an image")


@app.command()
def tokenize(
    images: Annotated[Path, typer.Option(help="Folder with train/CLASS/* or train-*.tar, and validation likewise.")],
    tokenizer: Annotated[Path, typer.Option(help="Folder of a trained tokenizer.")],
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    flip: Annotated[bool, typer.Option(help="Store each training image mirrored, too.")] = False,
    views: Annotated[Literal["centre", "ten-crop"], typer.Option(help="What to store of a training image.")] = "centre",
    payload: Annotated[
        Literal["bits", "probabilities"], typer.Option(help="Bits, or what they are drawn from in each epoch.")
    ] = "bits",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass of the encoder.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the shuffle at write time.")] = 0,
    max_broken: Annotated[float, typer.Option(min=0, max=0.5, help="Largest share of unreadable images.")] = 0.01,
) -> None:
    """Encode images to packed token shards; `torchrun -m elm_dist tokenize ...` does it on many processes."""
    from elm_dist.launch.tokenize import tokenize_images

    tokenize_images(
        images,
        tokenizer,
        out,
        batch_size=batch_size,
        seed=seed,
        flip=flip,
        views=views,
        payload=payload,
        max_broken=max_broken,
    )


@app.command()
def inspect(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Made by `elm tokenize`, or the run.directory of a training.")
    ],
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer of the shards, for --out.")] = None,
    out: Annotated[Path | None, typer.Option(help="A PNG of the first samples of the shards, decoded.")] = None,
    fast: Annotated[bool, typer.Option(help="Do not read the checkpoints of a run: trust their sizes.")] = False,
) -> None:
    """Check every checksum of token shards or of a run's checkpoints, and say what they hold; draw some of it."""
    from elm_dist.checkpoint.run_folder import is_run
    from elm_dist.data.shards import MANIFEST, UNFINISHED

    if is_run(folder):
        _inspect_run(folder, fast, draws=tokenizer is not None or out is not None)
    elif (folder / MANIFEST).exists() or (folder / UNFINISHED).exists():
        _inspect_shards(folder, tokenizer, out, fast)
    else:
        raise ElmError(
            f"{folder}: there are no token shards here (no manifest.json), and no run (no config.yaml); give a folder "
            "made by `elm tokenize`, or the run.directory of a training"
        )


def _inspect_run(run: Path, fast: bool, draws: bool) -> None:
    from elm_dist.checkpoint.run_report import inspect_run

    if draws:
        raise ElmError(f"--tokenizer and --out draw samples of shards, and {run} is a run; see `elm sample`")
    report = inspect_run(run, fast)
    typer.echo(str(report))
    raise typer.Exit(0 if report.is_good else 1)


def _inspect_shards(shards: Path, tokenizer: Path | None, out: Path | None, fast: bool) -> None:
    from elm_dist.data.inspect import inspect_shards
    from elm_dist.sampling.contact_sheet import draw_contact_sheet

    if fast:
        raise ElmError(f"--fast is for the checkpoints of a run; {shards} holds shards, which are always read in full")
    if (tokenizer is None) != (out is None):
        raise ElmError(
            "--tokenizer and --out go together: one decodes the samples, the other names their PNG; give both"
        )
    typer.echo(str(inspect_shards(shards)))
    if tokenizer is not None and out is not None:
        draw_contact_sheet(shards, tokenizer, out)
        typer.echo(f"picture     {out}")


@app.command()
def convert(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run.directory of a training.")],
    to: Annotated[Path, typer.Option(help="A new folder for model.safetensors and config.json.")],
    weights: Annotated[Literal["ema", "raw"], typer.Option(help="The averaged weights, or those of the step.")] = "ema",
    dtype: Annotated[Literal["fp32", "bf16"], typer.Option(help="What to store them in.")] = "fp32",
    step: Annotated[int | None, typer.Option(min=0, help="Of the checkpoint; the newest good one by default.")] = None,
) -> None:
    """Write a run's weights as plain safetensors, for use elsewhere.

    Nothing else needs converting: a run goes on from its checkpoints on any layout as they are.
    """
    from elm_dist.checkpoint.convert import convert_run

    checkpoint = convert_run(run, to, weights=weights, dtype=dtype, step=step)
    typer.echo(f"{to}: {weights} weights of step {checkpoint.step:,} in {dtype}")


@app.command()
def train(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Train in this one process; several are started by `deepspeed` or `torchrun` with elm_dist/train.py."""
    from elm_dist.train import run

    raise typer.Exit(run(config, overrides or []))


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run.directory of a training.")],
    out: Annotated[Path, typer.Option(help="Folder for the images.")],
    classes: Annotated[str | None, typer.Option(help="Class numbers, as in 207,360; all of them by default.")] = None,
    per_class: Annotated[int, typer.Option(min=1, help="Images of each class.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other images.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images drawn together; does not change them.")] = 32,
    preset: Annotated[
        str | None, typer.Option(help="A file of configs/sampling; by default the paper's for this model.")
    ] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Of the checkpoint; the newest good one by default.")] = None,
    npz: Annotated[bool, typer.Option(help="Write samples.npz, too, which ADM's evaluator reads.")] = False,
    overrides: Overrides = None,
) -> None:
    """Draw images from a checkpoint of a run; `torchrun -m elm_dist sample ...` does it on many processes.

    What is there already is kept: started again, a killed job goes on.
    """
    from elm_dist.sampling.run import sample_run

    grid = sample_run(
        run,
        out,
        classes=_parse_classes(classes),
        per_class=per_class,
        seed=seed,
        batch_size=batch_size,
        preset=preset,
        step=step,
        npz=npz,
        overrides=overrides,
    )
    if grid is not None:  # in the main process
        typer.echo(f"images in {out}, a grid of them in {grid}")


@app.command()
def evaluate(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="SAMPLES|RUN", help="Images in a folder or an npz file, or a run.directory."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Real images to score samples against: a folder, an npz, or saved statistics.")
    ] = None,
    features: Annotated[
        Literal["inception", "mobilenet_v2"], typer.Option(help="What to score in; only with inception is it FID.")
    ] = "inception",
    inception_weights: Annotated[
        Path | None, typer.Option(help="pt_inception-2015-12-05-6726825d.pth, for --features inception.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the scores and all that decides them.")] = None,
    save_statistics: Annotated[
        Path | None, typer.Option(help="A .safetensors for the reference's statistics, to be --reference next time.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images measured together.")] = 32,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Show two files of --out side by side instead.")
    ] = None,
) -> None:
    """Score samples against real images (FID and the like), measure a run's validation loss, or compare two results."""
    from rich.console import Console

    from elm_dist.analysis.evaluate import evaluate as run

    result = run(
        target,
        reference=reference,
        features=features,
        inception_weights=inception_weights,
        save_statistics=save_statistics,
        batch_size=batch_size,
        out=out,
        compare=compare,
    )
    Console().print(result, soft_wrap=True)


def _parse_classes(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(label) for label in text.split(",")]
    except ValueError:
        raise ElmError(f"--classes: '{text}' is not a list of class numbers; write them as in 207,360") from None


def main() -> None:
    """Run the command line: exit code 0 done, 1 failed, 2 wrong input."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        app(prog_name="elm")
    except ElmError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()

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
tokenizer_app = typer.Typer(help="Train the image tokenizer.", no_args_is_help=True)
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
    """Train the tokenizer of a configuration, or go on with it."""
    from elm_dist.training.tokenizer_trainer import train_tokenizer as run

    run(load_config(config, overrides))


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
    """Encode images to packed token shards; `torchrun -m elm_dist.cli tokenize ...` does it on several processes."""
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
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="A folder made by `elm tokenize`.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer that made them, for --out.")] = None,
    out: Annotated[Path | None, typer.Option(help="A PNG of the first samples, decoded.")] = None,
) -> None:
    """Check every checksum of token shards and say what they hold; draw some of it."""
    from elm_dist.data.inspect import inspect_shards
    from elm_dist.sampling.contact_sheet import draw_contact_sheet

    if (tokenizer is None) != (out is None):
        raise ElmError(
            "--tokenizer and --out go together: one decodes the samples, the other names their PNG; give both"
        )
    typer.echo(str(inspect_shards(shards)))
    if tokenizer is not None and out is not None:
        draw_contact_sheet(shards, tokenizer, out)
        typer.echo(f"picture     {out}")


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
    overrides: Overrides = None,
) -> None:
    """Draw images from the newest checkpoint of a run."""
    from elm_dist.sampling.run import sample_run

    grid = sample_run(
        run,
        out,
        classes=_parse_classes(classes),
        per_class=per_class,
        seed=seed,
        batch_size=batch_size,
        overrides=overrides,
    )
    typer.echo(f"images in {out}, all of them in {grid}")


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

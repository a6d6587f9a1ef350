"""Commands around the tokenizer: train it, report on it, encode images with it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from elm_dist.cli.app import ConfigArgument, Overrides, app
from elm_dist.config_file import load_config

tokenizer_app = typer.Typer(help="Train and judge the image tokenizer.", no_args_is_help=True)
app.add_typer(tokenizer_app, name="tokenizer")


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

"""Commands that judge images and runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from elm_dist.cli.app import app


@app.command()
def evaluate(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="SAMPLES|RUN", help="Images in a folder or an npz file, or a run.directory."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Real images to score samples against: a folder, an npz, or saved statistics.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Instead: train/CLASS/* and validation/CLASS/*, to tell whether samples look like theirs."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="With --images: a tokenizer, to judge what it makes of held-out images, too.")
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
        images=images,
        tokenizer=tokenizer,
        features=features,
        inception_weights=inception_weights,
        save_statistics=save_statistics,
        batch_size=batch_size,
        out=out,
        compare=compare,
    )
    Console().print(result, soft_wrap=True)

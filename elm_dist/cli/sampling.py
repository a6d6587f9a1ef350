"""Commands that draw images with a trained run."""

from pathlib import Path
from typing import Annotated

import typer

from elm_dist.cli.app import Overrides, RunArgument, app
from elm_dist.errors import ElmError


@app.command()
def sample(
    run: RunArgument,
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


def _parse_classes(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(label) for label in text.split(",")]
    except ValueError:
        raise ElmError(f"--classes: '{text}' is not a list of class numbers; write them as in 207,360") from None

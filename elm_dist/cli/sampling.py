"""Commands that draw images with a trained run."""

from pathlib import Path
from typing import Annotated

import typer

from elm_dist.cli.app import Overrides, RunArgument, app
from elm_dist.cli.lists import parse_list
from elm_dist.errors import ElmError

Out = Annotated[Path, typer.Option(help="Folder for the images.")]
PerClass = Annotated[int, typer.Option(min=1, help="Images of each class.")]
Seed = Annotated[int, typer.Option(min=0, help="Another seed, other images.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images drawn together; does not change them.")]
Preset = Annotated[str | None, typer.Option(help="A file of configs/sampling; by default the paper's for this model.")]
Step = Annotated[int | None, typer.Option(min=0, help="Of the checkpoint; the newest good one by default.")]
SomeClasses = Annotated[str, typer.Option(help="Class numbers, as in 207,360.")]


@app.command()
def sample(
    run: RunArgument,
    out: Out,
    classes: Annotated[str | None, typer.Option(help="Class numbers, as in 207,360; all of them by default.")] = None,
    per_class: PerClass = 1,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    preset: Preset = None,
    step: Step = None,
    npz: Annotated[bool, typer.Option(help="Write samples.npz, too, which ADM's evaluator reads.")] = False,
    overrides: Overrides = None,
) -> None:
    """Draw images from a checkpoint of a run; `torchrun -m elm_dist sample ...` does it on many processes.

    What is there already is kept: started again, a killed job goes on.
    """
    from elm_dist.sampling.job import DrawingJob
    from elm_dist.sampling.run import sample_run

    grid = sample_run(
        DrawingJob(run, out, seed, batch_size, preset, step, overrides or ()),
        classes=None if classes is None else _parse_classes("--classes", classes),
        per_class=per_class,
        npz=npz,
    )
    if grid is not None:  # in the main process
        typer.echo(f"images in {out}, a grid of them in {grid}")


@app.command()
def expand(
    run: RunArgument,
    out: Out,
    classes: SomeClasses,
    size: Annotated[str, typer.Option(metavar="HEIGHTxWIDTH", help="Of each picture, in pixels, as in 256x1024.")],
    overlap: Annotated[
        int | None, typer.Option(help="Pixels that windows share with what is there; half an image by default.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="A picture whose centre to start from.")] = None,
    per_class: PerClass = 1,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    preset: Preset = None,
    step: Step = None,
    overrides: Overrides = None,
) -> None:
    """Draw pictures larger than the model's own, to the right and down from an image that it draws or is given."""
    from elm_dist.sampling.expand import expand_run
    from elm_dist.sampling.job import DrawingJob

    height, width = _parse_size(size)
    grid = expand_run(
        DrawingJob(run, out, seed, batch_size, preset, step, overrides or ()),
        classes=_parse_classes("--classes", classes),
        height=height,
        width=width,
        overlap=overlap,
        image=image,
        per_class=per_class,
    )
    typer.echo(f"pictures in {out}, a grid of them in {grid}")


@app.command()
def edit(
    run: RunArgument,
    out: Out,
    image: Annotated[Path, typer.Option(help="The picture; its centre is edited.")],
    classes: SomeClasses,
    region: Annotated[
        str | None, typer.Option(metavar="LEFT,TOP,RIGHT,BOTTOM", help="Pixels of the picture to draw anew.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="A picture as large, white where to draw anew.")] = None,
    keep: Annotated[int | None, typer.Option(help="Keep so many codes, row by row, and draw all others.")] = None,
    per_class: PerClass = 1,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    preset: Preset = None,
    step: Step = None,
    overrides: Overrides = None,
) -> None:
    """Draw a part of a picture anew as one class or several: a --region, a --mask, or all but the first codes."""
    from elm_dist.sampling.edit import edit_run
    from elm_dist.sampling.job import DrawingJob

    corners = "left,top,right,bottom in pixels; write them as in 64,64,192,192"
    grid = edit_run(
        DrawingJob(run, out, seed, batch_size, preset, step, overrides or ()),
        image=image,
        classes=_parse_classes("--classes", classes),
        region=None if region is None else parse_list("--region", region, int, corners, count=4),
        mask=mask,
        keep=keep,
        per_class=per_class,
    )
    typer.echo(f"pictures in {out}, a grid of them in {grid}")


@app.command()
def interpolate(
    run: RunArgument,
    out: Out,
    between: Annotated[str, typer.Option(metavar="CLASS,CLASS", help="Two class numbers, as in 207,360.")],
    steps: Annotated[int, typer.Option(min=1, help="Mixtures between the plain classes; the paper has 5.")] = 5,
    rows: Annotated[int, typer.Option(min=1, help="Rows, each with a seed of its own.")] = 1,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    preset: Preset = None,
    step: Step = None,
    overrides: Overrides = None,
) -> None:
    """Draw what lies between two classes: mixtures of their embeddings, the same random numbers across a row."""
    from elm_dist.sampling.interpolate import interpolate_run
    from elm_dist.sampling.job import DrawingJob

    first, second = parse_list("--between", between, int, "two class numbers; write them as in 207,360", count=2)
    grid = interpolate_run(
        DrawingJob(run, out, seed, batch_size, preset, step, overrides or ()),
        between=(first, second),
        steps=steps,
        rows=rows,
    )
    typer.echo(f"images in {out}, a grid of them in {grid}")


@app.command()
def serve(
    run: RunArgument,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of 127.0.0.1; 7860 by default, or one that is free.")
    ] = None,
    preset: Preset = None,
    step: Step = None,
    overrides: Overrides = None,
) -> None:
    """Open a page to draw with a run in a browser, on this machine only; Ctrl-C ends it. Needs elm-dist[serve]."""
    from elm_dist.sampling.page import serve as serve_page
    from elm_dist.sampling.studio import Studio

    studio = Studio(run, preset=preset, step=step, overrides=overrides)
    serve_page(studio, port, lambda address: typer.echo(f"{run} is at {address}; Ctrl-C ends it"))


def _parse_classes(option: str, text: str) -> list[int]:
    return parse_list(option, text, int, "a list of class numbers; write them as in 207,360")


def _parse_size(text: str) -> tuple[int, int]:
    height, by, width = text.partition("x")
    if not (by and height.isdecimal() and width.isdecimal()):
        raise ElmError(f"--size: '{text}' is not height x width in pixels; write it as in 256x1024")
    return int(height), int(width)

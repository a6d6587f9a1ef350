"""The command that repeats the paper's comparisons on this machine."""

import os
from pathlib import Path
from typing import Annotated

import typer

from elm_dist.cli.app import ConfigArgument, Overrides, app


@app.command()
def study(
    config: ConfigArgument = Path("configs/study.yaml"),
    out: Annotated[Path, typer.Option(help="Folder for tokenizers, runs, samples and logs.")] = Path("runs/study"),
    page: Annotated[Path | None, typer.Option(help="Folder for the page and its figures; OUT/page by default.")] = None,
    per_class: Annotated[int, typer.Option(min=1, help="Samples of each class that a model is scored by.")] = 100,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Jobs at a time, one thread each; as many as cores by default.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Repeat the paper's comparisons at a small scale, and write a page on which of its findings show.

    What is done already is not done again: started again, a study that was stopped goes on.
    """
    from elm_dist.study.run import run_study

    run_study(
        config,
        overrides or [],
        out=out,
        page=page or out / "page",
        per_class=per_class,
        workers=workers or os.cpu_count() or 1,
    )
    typer.echo(f"page in {(page or out / 'page') / 'README.md'}")

"""The group of commands that look into data and runs: each leaves a table, the facts behind it, and a figure."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elm_dist.cli.app import app

if TYPE_CHECKING:
    from elm_dist.analysis.findings import Findings

analyze = typer.Typer(help="Look into tokens, models and runs as the paper does.", no_args_is_help=True)
app.add_typer(analyze, name="analyze")

Out = Annotated[Path, typer.Option(help="Folder for the table (CSV), the facts (JSON) and the figure (SVG).")]


def present(findings: "Findings", out: Path) -> None:
    """Write findings into `out`, and show them."""
    from rich.console import Console

    paths = findings.write(out)
    Console().print(findings)
    typer.echo(f"in {', '.join(map(str, paths))}")

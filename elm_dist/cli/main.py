"""The `elm` command line: parses, calls one function, and turns errors into one sentence and their exit code."""

import logging
import sys

import typer

# isort: off
from elm_dist.cli import (  # noqa: F401  in the order of --help
    runs,
    planning,
    exchange,
    tokenizers,
    sampling,
    evaluation,
    reports,
    analyze_tokens,
    analyze_model,
    analyze_runs,
    study,
    cluster,
)

# isort: on
from elm_dist.cli.app import app
from elm_dist.errors import ElmError


def main() -> None:
    """Run the command line: exit code 0 done, 1 failed, 2 wrong input."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        app(prog_name="elm")
    except ElmError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

"""Analyses of a trained model: where it attends, and where its loss is."""

from typing import Annotated

import typer

from elm_dist.cli.analysis import Out, analyze, present
from elm_dist.cli.app import RunArgument
from elm_dist.cli.lists import parse_list
from elm_dist.cli.sampling import Step


@analyze.command("attention")
def analyze_attention(
    run: RunArgument,
    out: Out,
    images: Annotated[int, typer.Option(min=1, help="Of the validation split, from its first on.")] = 100,
    step: Step = None,
    layers: Annotated[
        str | None,
        typer.Option(help="To draw maps of, from 1, as in 13,24; by default half the depth and the last."),
    ] = None,
) -> None:
    """Measure how far on the grid each layer and head of a run's model looks, beside uniform attention."""
    from elm_dist.analysis.attention_locality import analyze_attention as run_analysis

    numbers = (
        None if layers is None else parse_list("--layers", layers, int, "a list of layers; write them as in 13,24")
    )
    present(run_analysis(run, images=images, step=step, layers=numbers), out)


@analyze.command("loss")
def analyze_loss(run: RunArgument, out: Out, step: Step = None) -> None:
    """Measure the validation loss of a run's model at each position and head, in bits."""
    from elm_dist.analysis.position_loss import analyze_loss as run_analysis

    present(run_analysis(run, step=step), out)

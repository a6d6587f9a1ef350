"""The figure of `elm analyze scaling`: losses on logarithmic scales, and laws with their bands. Fits nothing."""

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from elm_dist.analysis.figures import SERIES
from elm_dist.analysis.power_law import FittedLaw, Measurement
from elm_dist.analysis.run_series import Series

BEYOND = 1.5  # times the measured range, in both directions, that a law is drawn over
DRAWN = 100  # places of a law


class Laws(NamedTuple):
    """What was fitted to one series; None where there is nothing to fit."""

    parameters: FittedLaw | None
    flops: FittedLaw | None
    images: dict[int, FittedLaw | None]  # of each size, by parameters


def draw_scaling(series: Sequence[Series], laws: dict[str, Laws], loss: str) -> Figure:
    """Draw one panel each for parameters, training FLOPs and images, with one colour for a series."""
    figure = Figure(figsize=(12, 4))
    panels: list[Axes] = list(figure.subplots(1, 3, sharey=True))
    parameters, flops, images = panels
    for axes, name in zip(panels, ("parameters", "training FLOPs", "images seen"), strict=True):
        _scale(axes, name)
    for colour, one in zip(cycle(SERIES), series):
        found = laws[one.name]
        _draw_sizes(parameters, one.by_parameters(), colour, one.name)
        _draw_law(parameters, found.parameters, one.by_parameters(), colour)
        for size in one.sizes:
            _draw_curve(flops, one.by_flops(size), colour, size)
            _draw_curve(images, one.by_images(size), colour, size)
            _draw_law(images, found.images[size], one.by_images(size), colour)
        _draw_law(flops, found.flops, one.frontier(), colour)
    parameters.set_ylabel(loss)
    parameters.legend(title="sub-tokens x bits", alignment="left")
    return figure


def _scale(axes: Axes, name: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=name)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(6))  # a range of losses is a fraction of a decade
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())


def _draw_sizes(axes: Axes, measured: list[Measurement], colour: str, name: str) -> None:
    """Draw the mean of the seeds of each size, with their standard deviation."""
    deviations = [float(np.std(point.losses, ddof=1)) if len(point.losses) > 1 else 0.0 for point in measured]
    x, means = [point.x for point in measured], [point.mean for point in measured]
    axes.errorbar(x, means, deviations, fmt="o", color=colour, capsize=3, label=name)


def _draw_curve(axes: Axes, measured: list[Measurement], colour: str, size: int) -> None:
    axes.plot([point.x for point in measured], [point.mean for point in measured], ".-", color=colour, lw=0.8, ms=4)
    end = (measured[-1].x, measured[-1].mean)
    axes.annotate(EngFormatter(places=1, sep="")(size), end, (4, 0), textcoords="offset points", fontsize=8)


def _draw_law(axes: Axes, law: FittedLaw | None, measured: list[Measurement], colour: str) -> None:
    if law is None:
        return
    x = np.geomspace(measured[0].x / BEYOND, measured[-1].x * BEYOND, DRAWN)
    axes.plot(x, law.law(x), "--", color=colour, lw=1.5)
    if len(law.samples):
        axes.fill_between(x, *law.band(x), color=colour, alpha=0.15, lw=0)

"""The curves of runs as small figures that a phone can show, several runs in one; and when what happened to a run.

Draws what was measured and measures nothing.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from elm_dist.analysis.figures import BLUE, GREY, ORANGE, SERIES, explain_line, house_style, svg
from elm_dist.analysis.run_record import Curve
from elm_dist.monitoring import metrics as names
from elm_dist.monitoring.events import BEGINS, Event

CURVE_POINTS = 400  # of a curve that may have millions
SIZE = (4.3, 2.5)  # inches: letters stay readable where the figure is as wide as a phone
MANY = 100  # times as large as the smallest: then the scale is logarithmic
UNITS = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))

Curves = Mapping[str, Curve]


class Chart(NamedTuple):
    title: str
    metric: str
    validation: str = ""  # the same measured on the validation split
    from_zero: bool = True


CHARTS = (
    Chart("Loss (nats)", names.LOSS, names.VALIDATION_LOSS, from_zero=False),
    Chart("Bits per code bit", names.BITS_PER_CODE_BIT, names.VALIDATION_BITS_PER_CODE_BIT, from_zero=False),
    Chart("Learning rate", names.LEARNING_RATE),
    Chart("Gradient norm", names.GRAD_NORM),
    Chart("Images per second", names.IMAGES_PER_SECOND),
    Chart("MFU (%)", names.MFU_PERCENT),
    Chart("Waiting for data (%)", names.DATA_WAIT_PERCENT),
    Chart("Pipeline bubble (%)", names.BUBBLE_PERCENT),
    Chart("Peak memory of rank 0 (GiB)", names.MEMORY_GIB),
    Chart("Goodput (%)", names.GOODPUT_PERCENT),
)


class Plot(NamedTuple):
    description: str  # in words, for who cannot see it
    svg: str


def draw_curves(runs: Mapping[str, Curves]) -> list[Plot]:
    """Return a plot for each chart that any of the runs, by their names, has a curve of."""
    shown = [chart for chart in CHARTS if any(chart.metric in curves for curves in runs.values())]
    with house_style():
        return [Plot(_describe(chart, runs), svg(_draw(chart, list(runs.values())))) for chart in shown]


def colour(run: int) -> str:
    """Return that of a run among several."""
    return SERIES[run % len(SERIES)]


def thin(curve: Curve) -> Curve:
    """Return CURVE_POINTS points at most: of each stretch the lowest and the highest, so that every spike is there."""
    if len(curve.steps) <= CURVE_POINTS:
        return curve
    chosen: list[int] = []
    for stretch in np.array_split(np.arange(len(curve.steps)), CURVE_POINTS // 2):
        values = curve.values[stretch]
        chosen += sorted({int(stretch[values.argmin()]), int(stretch[values.argmax()])})
    return Curve(curve.steps[chosen], curve.values[chosen])


def _draw(chart: Chart, runs: Sequence[Curves]) -> Figure:
    figure, axes = _small_figure(chart.title)
    is_alone = len(runs) == 1
    for run, curves in enumerate(runs):
        if chart.metric in curves:
            axes.plot(*thin(curves[chart.metric]), color=colour(run), linewidth=1.3)
        if chart.validation in curves:
            shade, line = (ORANGE, ".-") if is_alone else (colour(run), ".:")
            axes.plot(*thin(curves[chart.validation]), line, color=shade, linewidth=1.3)
    if any(chart.validation in curves for curves in runs):
        explain_line(axes, *(("validation", ORANGE) if is_alone else ("dotted: validation", GREY)))
    _scale(axes, chart, np.concatenate([curves[chart.metric].values for curves in runs if chart.metric in curves]))
    axes.set(xlabel="step")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: _steps(step)))
    return figure


def _scale(axes: Axes, chart: Chart, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    if chart.metric == names.GRAD_NORM and 0 < values.min() * MANY < values.max():
        axes.set_yscale("log")
    elif chart.from_zero:
        axes.set_ylim(0, max(1.08 * values.max(), 1e-12))
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _small_figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE)
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.set_title(title)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure, axes


def _steps(step: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= size:
            return f"{step / size:g}{letter}"
    return f"{step:g}"


def _describe(chart: Chart, runs: Mapping[str, Curves]) -> str:
    found = [
        f"{name} from {curves[chart.metric].values[0]:.4g} to {curves[chart.metric].last:.4g}"
        for name, curves in runs.items()
        if chart.metric in curves
    ]
    return f"{chart.title}: {'; '.join(found)}"


def draw_timeline(events: Sequence[Event], breaks: Sequence[Event]) -> Plot:
    """Return the steps of a run over time: each start is a line, which begins lower where steps are done again."""
    begin, end = events[0].time, events[-1].time
    size, unit = next((size, unit) for size, unit in UNITS if end - begin >= 2 * size or size == 1)
    with house_style():
        figure, axes = _small_figure("Steps over time")
        for stretch in _stretches(events):
            axes.plot([(e.time - begin) / size for e in stretch], [e.step for e in stretch], color=BLUE, linewidth=1.8)
        saves = [event for event in events if event.kind == "save"]
        axes.plot([(e.time - begin) / size for e in saves], [e.step for e in saves], ".", color=BLUE, markersize=7)
        if breaks:
            places = [(e.time - begin) / size for e in breaks], [e.step for e in breaks]
            axes.plot(*places, "X", color=ORANGE, markersize=8, zorder=3)
            explain_line(axes, "fault")
        axes.set(xlabel=f"{unit} since the first start; dots are checkpoints", ylim=(0, None))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda step, _: _steps(step)))
        return Plot(f"Steps over time: up to {events[-1].step:,}, with {len(breaks)} faults", svg(figure))


def _stretches(events: Sequence[Event]) -> list[list[Event]]:
    """Divide the events where something begins."""
    stretches: list[list[Event]] = []
    for event in events:
        if event.kind in BEGINS or not stretches:
            stretches.append([])
        stretches[-1].append(event)
    return stretches

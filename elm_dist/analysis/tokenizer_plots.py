"""The plots of a tokenizer's report as SVG. Draws what was measured and measures nothing."""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from elm_dist.analysis.tokenizer_measures import TokenizerMeasures
from elm_dist.evaluation.code_statistics import CodeStatistics

BLUE, ORANGE, GREY = "#3b6fb6", "#d9822b", "#8a8f98"
STYLE: Any = {  # the type that matplotlib gives it lists all of its settings
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e6e8eb",
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "elm",  # one report is one file, byte by byte
}
CURVE_POINTS = 400  # of a curve that may have millions


def draw_plots(measures: TokenizerMeasures) -> dict[str, str]:
    """Return the plots as SVG, by what they show."""
    with matplotlib.rc_context(STYLE):
        figures = {
            "How well each image comes back": _draw_quality(measures.psnr_db, measures.ssim),
            "What each bit of a code says": _draw_bits(measures.codes),
            "Which codes occur, and which bits go together": _draw_codes(measures.codes),
        }
        return {title: _svg(figure) for title, figure in figures.items()}


def _draw_quality(psnr_db: Tensor, ssim: Tensor) -> Figure:
    figure = Figure(figsize=(10, 2.8))
    for axes, values, name, unit in zip(
        figure.subplots(1, 2), (psnr_db, ssim), ("PSNR", "SSIM"), ("dB", "structural similarity"), strict=True
    ):
        mean = values.mean().item()
        axes.hist(values.numpy(), bins=40, color=BLUE)
        axes.axvline(mean, color=ORANGE)
        axes.set(title=name, xlabel=unit, ylabel="images")
        _explain_line(axes, f"mean {mean:.4g}")
    return figure


def _draw_bits(codes: CodeStatistics) -> Figure:
    figure = Figure(figsize=(10, 2.8))
    left, right = figure.subplots(1, 2)
    places = np.arange(len(codes.ones))
    left.bar(places, codes.bit_entropies.numpy(), color=BLUE)
    left.set(title="Entropy", ylabel="bits", ylim=(0, 1.03))
    right.bar(places, 100 * codes.ones.numpy(), color=BLUE)
    right.axhline(50, color=ORANGE)
    right.set(title="How often it is set", ylabel="% of codes", ylim=(0, 103))
    _explain_line(right, "a fair coin")
    for axes in (left, right):
        axes.set(xlabel="bit, the most significant first", xlim=(-0.6, len(places) - 0.4))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw_codes(codes: CodeStatistics) -> Figure:
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    ranks = np.unique(np.geomspace(1, codes.used, CURVE_POINTS).astype(int))
    left.loglog(ranks, 100 * codes.counts.numpy()[ranks - 1] / codes.codes, color=BLUE)
    most = min(codes.possible, codes.codes)  # that could have been found
    left.plot([1, most], [100 / most, 100 / most], color=ORANGE)
    left.set(title="How often each code occurs", xlabel="codes, the most frequent first", ylabel="% of all codes")
    _explain_line(left, "all equally often")
    _draw_correlation(figure, right, codes.correlation)
    return figure


def _explain_line(axes: Axes, text: str) -> None:
    """Say in its colour what the orange line is, where no bar and no curve can be in the way."""
    axes.set_title(text, loc="right", color=ORANGE, fontsize=10, fontweight="normal")


def _draw_correlation(figure: Figure, axes: Axes, correlation: Tensor) -> None:
    """Draw all pairs in colours that reach as far as the strongest of them; a bit with itself is left white."""
    pairs = np.ma.masked_array(correlation.numpy(), mask=np.eye(len(correlation), dtype=bool))
    limit = max(np.abs(pairs).max(), 0.01) if len(correlation) > 1 else 1
    image = axes.imshow(pairs, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set(title="Correlation of bits", xlabel="bit", ylabel="bit")
    axes.grid(visible=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=axes, label="phi coefficient", shrink=0.9).outline.set_visible(False)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()

"""The plots of a tokenizer's report as SVG. Draws what was measured and measures nothing."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from elm_dist.analysis.figures import BLUE, ORANGE, explain_line, house_style, svg
from elm_dist.analysis.tokenizer_measures import TokenizerMeasures
from elm_dist.evaluation.code_statistics import CodeStatistics

CURVE_POINTS = 400  # of a curve that may have millions


def draw_plots(measures: TokenizerMeasures) -> dict[str, str]:
    """Return the plots as SVG, by what they show."""
    with house_style():
        figures = {
            "How well each image comes back": _draw_quality(measures.psnr_db, measures.ssim),
            "What each bit of a code says": _draw_bits(measures.codes),
            "Which codes occur, and which bits go together": _draw_codes(measures.codes),
        }
        return {title: svg(figure) for title, figure in figures.items()}


def _draw_quality(psnr_db: Tensor, ssim: Tensor) -> Figure:
    figure = Figure(figsize=(10, 2.8))
    for axes, values, name, unit in zip(
        figure.subplots(1, 2), (psnr_db, ssim), ("PSNR", "SSIM"), ("dB", "structural similarity"), strict=True
    ):
        mean = values.mean().item()
        axes.hist(values.numpy(), bins=40, color=BLUE)
        axes.axvline(mean, color=ORANGE)
        axes.set(title=name, xlabel=unit, ylabel="images")
        explain_line(axes, f"mean {mean:.4g}")
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
    explain_line(right, "a fair coin")
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
    explain_line(left, "all equally often")
    _draw_correlation(figure, right, codes.correlation)
    return figure


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

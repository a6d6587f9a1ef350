"""The figure of a model's attention: how much goes how far in each layer, and maps of some. Measures nothing."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from elm_dist.analysis.figures import ORANGE, explain_line

COLOURS = "viridis"


def draw_attention(curves: Sequence[Tensor], uniform: Tensor, maps: Mapping[int, Tensor], head: str) -> Figure:
    """Draw a curve per layer and the uniform one, (bins,) with the class last, and maps (queries, keys) by layer."""
    figure = Figure(figsize=(5.2 + 4.2 * len(maps), 4))
    axes = figure.subplots(1, 1 + len(maps), squeeze=False, width_ratios=[1.2] + [1] * len(maps))[0]
    _draw_curves(axes[0], curves, uniform)
    for place, (layer, weights) in zip(axes[1:], maps.items(), strict=True):
        # The root shows weak bands beside strong ones. What nothing goes to, as all that comes later, is white.
        seen = np.ma.masked_equal(weights.numpy(), 0)
        image = place.imshow(seen, cmap=COLOURS, norm=PowerNorm(0.5, vmin=0), interpolation="nearest")
        place.set(title=f"Layer {layer}, {head}", xlabel="position that is seen", ylabel="position that looks")
        place.grid(visible=False)
        figure.colorbar(image, ax=place, label="weight, mean over images", shrink=0.8).outline.set_visible(False)
    return figure


def _draw_curves(axes: Axes, curves: Sequence[Tensor], uniform: Tensor) -> None:
    distances = uniform[:-1].nonzero().flatten()  # no causal query sees the cell that it predicts
    colour = ScalarMappable(Normalize(1, max(len(curves), 2)), matplotlib.colormaps[COLOURS])
    for layer, curve in enumerate(curves, 1):
        axes.plot(distances, 100 * curve[distances], color=colour.to_rgba(np.array(layer)), marker=".")
    axes.plot(distances, 100 * uniform[distances], color=ORANGE, linestyle="--")
    axes.set(title="How far layers look", xlabel="distance, cells", ylabel="% of attention", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    explain_line(axes, "uniform attention")
    bar = axes.figure.colorbar(colour, ax=axes, label="layer", ticks=MaxNLocator(integer=True))
    bar.outline.set_visible(False)

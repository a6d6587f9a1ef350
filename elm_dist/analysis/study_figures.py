"""The figure of one measure of many variants: every seed a dot, and how far each variant is from the one in front.

Knows nothing of what was measured.
"""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from elm_dist.analysis.figures import BLUE, GREY, ORANGE, house_style, svg


def draw_spread(
    label: str, values: Mapping[str, Sequence[float]], intervals: Mapping[str, tuple[float, float, float]]
) -> str:
    """Return the text of an SVG file.

    `values` are those of each variant's seeds. `intervals` are the differences to the first variant of all others, each
    as value, low and high.
    """
    with house_style():
        figure = Figure(figsize=(10, 1.4 + 0.3 * len(values)))
        left, right = figure.subplots(1, 2, sharey=True)
        names = list(values)
        for place, name in enumerate(names):
            left.plot(values[name], [place] * len(values[name]), "o", color=BLUE, markersize=5, alpha=0.7)
            if name in intervals:
                value, low, high = intervals[name]
                right.plot([low, high], [place, place], color=GREY, linewidth=2)
                right.plot(value, place, "o", color=BLUE, markersize=5)
        left.axvline(sum(values[names[0]]) / len(values[names[0]]), color=ORANGE, linewidth=1)
        right.axvline(0, color=ORANGE, linewidth=1)
        left.set(title="Each seed", xlabel=label)
        right.set(title=f"Difference to {names[0]}, 95 % interval", xlabel=label)
        left.set_yticks(range(len(names)), names)
        left.invert_yaxis()  # the first on top
        for axes in (left, right):
            axes.grid(axis="y", visible=False)
            axes.grid(axis="x", visible=True)
        return svg(figure)

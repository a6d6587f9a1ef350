"""How all figures look, and what draws them into a file. Knows nothing of what they show."""

import io
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#3b6fb6", "#d9822b", "#8a8f98"
SERIES = (BLUE, ORANGE, "#4f9d69", "#9b5fb5", "#c0504d", "#3aa6a6", "#7a6a4f", GREY)  # of curves side by side
STYLE: Any = {  # the type that matplotlib gives it lists all of its settings
    "font.size": 10,
    "axes.prop_cycle": cycler(color=SERIES),
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
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "elm",  # what shows the same is the same file, byte by byte
}


def house_style() -> AbstractContextManager[None]:
    """Draw everything inside in this style."""
    return matplotlib.rc_context(STYLE)


def explain_line(axes: Axes, text: str, colour: str = ORANGE) -> None:
    """Say in its colour what a line is, the orange one if no other, where no bar and no curve can be in the way."""
    axes.set_title(text, loc="right", color=colour, fontsize=10, fontweight="normal")


def svg(figure: Figure) -> str:
    """Return the figure as the text of an SVG file."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()

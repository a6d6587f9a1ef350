"""What every analysis leaves: a table of numbers (CSV), what decides them (JSON), and a figure (SVG).

Knows nothing of what is analysed.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from elm_dist.analysis.figures import house_style, svg
from elm_dist.files import replace_text

Row = Mapping[str, Any]  # a number or a word for each column; all rows have the same columns
MOST_SHOWN = 40  # rows that the terminal gets


@dataclass(frozen=True)
class Findings:
    """The result of one analysis. Names of columns carry units, as in `loss_nats`."""

    name: str  # of its files, as in "token_randomness"
    title: str
    rows: Sequence[Row]
    summary: Mapping[str, Any]  # the few numbers that answer the question, and what they mean
    settings: Mapping[str, Any]  # all that decides the numbers: inputs with their checksums, seeds, options
    draw: Callable[[], Figure]  # called in the house's style

    def write(self, out: Path) -> list[Path]:
        """Write the table, the facts and the figure into the folder `out`; return the three paths."""
        out.mkdir(parents=True, exist_ok=True)
        with house_style():
            figure = svg(self.draw())
        facts = {"title": self.title, "summary": dict(self.summary), "settings": dict(self.settings)}
        texts = {".csv": self._csv(), ".json": json.dumps(facts, indent=1) + "\n", ".svg": figure}
        paths = [out / f"{self.name}{suffix}" for suffix in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            replace_text(path, text)
        return paths

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title=self.title)
        for column in self.rows[0]:
            table.add_column(column.replace("_", " "), justify="right")
        for row in self.rows[:MOST_SHOWN]:
            table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
        yield table
        if len(self.rows) > MOST_SHOWN:
            yield f"... and {len(self.rows) - MOST_SHOWN} rows more in the table"
        for name, value in self.summary.items():
            yield f"{name.replace('_', ' ')}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}"

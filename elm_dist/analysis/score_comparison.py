"""The job behind `elm evaluate --compare`: two results side by side, and everything in which they are not alike."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table

from elm_dist.errors import EvaluationError

# What scores must have in common for a difference of them to say anything, and what it is called.
MUST_AGREE = {
    "samples": {
        "features.weights_sha256": "feature weights",
        "reference.sha256": "reference",
        "samples.images": "number of samples",
    },
    "classes": {
        "features.weights_sha256": "feature weights",
        "images.fitted_on_sha256": "training images",
        "images.held_out_sha256": "held-out images",
        "classifier_penalty": "penalties of the classifier",
    },
    "run": {"shards_sha256": "validation images"},
}


@dataclass(frozen=True)
class ScoreComparison:
    """Two results of `elm evaluate`; rich prints them as a table."""

    names: tuple[str, str]
    kind: str
    scores: tuple[dict[str, float], dict[str, float]]
    settings: tuple[dict[str, Any], dict[str, Any]]  # flat: "reference.sha256" and so on

    @property
    def obstacles(self) -> list[str]:
        """What is not alike and has to be, in words; without any, differences of scores mean something."""
        first, second = self.settings
        return [words for key, words in MUST_AGREE[self.kind].items() if first.get(key) != second.get(key)]

    @property
    def differences(self) -> dict[str, tuple[Any, Any]]:
        """All settings that differ; None stands for one that is not there."""
        first, second = self.settings
        keys = dict.fromkeys((*first, *second))
        return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first, second = self.scores
        table = _table("scores", "score", *self.names, "difference")
        for name in dict.fromkeys((*first, *second)):
            values = [scores.get(name) for scores in self.scores]
            shown = ["" if value is None else f"{value:.4f}" for value in values]
            is_fair = not self.obstacles and None not in values
            table.add_row(name, *shown, f"{second[name] - first[name]:+.4f}" if is_fair else "")
        yield table
        if self.obstacles:
            yield f"no differences are shown: the {', '.join(self.obstacles)} of the two are not the same"
        settings = _table("settings that differ", "setting", *self.names)
        for key, pair in self.differences.items():
            settings.add_row(key, *(escape(json.dumps(value)) for value in pair))
        yield settings if self.differences else "all settings are the same"


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(escape(heading), overflow="fold")
    return table


def compare_scores(first: Path, second: Path) -> ScoreComparison:
    """Return two results side by side; raises EvaluationError unless both are of `elm evaluate` and of one kind."""
    results = [_read(path) for path in (first, second)]
    kinds = [result["kind"] for result in results]
    if kinds[0] != kinds[1]:
        raise EvaluationError(
            f"{first} has scores of {kinds[0]} and {second} of {kinds[1]}; compare two of the same kind"
        )
    one, two = results
    names = (str(first), str(second))
    return ScoreComparison(
        names, kinds[0], (one["scores"], two["scores"]), (_flatten(one["settings"]), _flatten(two["settings"]))
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        MUST_AGREE[result["kind"]], result["scores"].items(), result["settings"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise EvaluationError(
            f"{path}: this is not a result of `elm evaluate` ({reason}); make one with --out FILE"
        ) from None
    return result


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"a.b": 1} for {"a": {"b": 1}}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat

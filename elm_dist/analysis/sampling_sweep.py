"""The sampling sweep: which guidance and which top-k draw the best images (paper section 3.6, tables 13 to 15).

Every combination draws the same images, of the same classes with the same random numbers, so that only the settings
differ. Knows nothing of how images are drawn: whoever starts it says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from elm_dist.analysis.figures import GREY, SERIES
from elm_dist.analysis.findings import Findings, Row
from elm_dist.analysis.picture_sets import open_pictures, read_sampling
from elm_dist.analysis.sample_scores import SampleScores, evaluate_samples
from elm_dist.checkpoint.run_folder import CONFIG, load_run_config
from elm_dist.config_file import load_config
from elm_dist.devices import choose_device
from elm_dist.evaluation.features import FeatureName, load_features
from elm_dist.evaluation.reference import SUFFIX, load_reference


@dataclass(frozen=True)
class Combination:
    """One way to sample."""

    schedule: str
    scale: float
    top_k: int  # 0 = all

    @property
    def name(self) -> str:
        """Of its folder of images."""
        return f"{self.schedule}_{self.scale:g}_top_{self.top_k or 'all'}"

    @property
    def overrides(self) -> list[str]:
        settings = {"cfg_schedule": self.schedule, "cfg_scale": self.scale, "top_k": self.top_k}
        return [f"sampling.{key}={value}" for key, value in settings.items()]


# Fills a folder with the images of some overrides, drawn from the checkpoint of a step: None for the newest good one.
# Images that are there already it keeps.
Draw = Callable[[Path, list[str], int | None], object]


class SamplingSweep:
    """All combinations of some settings for one run, each with a folder of images in `out`/images."""

    def __init__(
        self, run: Path, out: Path, *, schedules: Sequence[str], scales: Sequence[float], top_k: Sequence[int]
    ) -> None:
        """Raises an ElmError for a folder that is no run, and for a setting that sampling does not have."""
        load_run_config(run)
        self.run, self.out = run, out
        self.combinations = list(dict.fromkeys(Combination(*one) for one in product(schedules, scales, top_k)))
        for combination in self.combinations:
            load_config(run / CONFIG, combination.overrides)  # all of them before the first is drawn

    def folder(self, combination: Combination) -> Path:
        return self.out / "images" / combination.name

    def draw(self, draw: Draw, step: int | None) -> None:
        """Have the images drawn that are missing, all from one checkpoint even where the run goes on meanwhile."""
        begun = (read_sampling(self.folder(combination)) for combination in self.combinations)
        if step is None:
            step = next((sampling["step"] for sampling in begun if sampling), None)
        for combination in self.combinations:
            folder = self.folder(combination)
            draw(folder, combination.overrides, step)
            sampling = read_sampling(folder)
            assert sampling is not None
            step = sampling["step"]

    def score(
        self, reference: Path, *, features: FeatureName, inception_weights: Path | None, batch_size: int
    ) -> Findings:
        """Score the images of every combination against the same real ones, which are measured once.

        Each result goes to `out`/scores, where `elm evaluate --compare` takes it.
        """
        results: dict[Combination, SampleScores] = {}
        for combination in self.combinations:
            saved = self.out / f"reference{SUFFIX}"
            results[combination] = evaluate_samples(
                self.folder(combination),
                saved if results else reference,
                features=features,
                inception_weights=inception_weights,
                batch_size=batch_size,
                save_statistics=None if results else saved,
                out=self.out / "scores" / f"{combination.name}.json",
            )
        return _findings(self.run, results)


def check_scoring(reference: Path, features: FeatureName, inception_weights: Path | None) -> None:
    """Raise an ElmError for a reference or weights that do not do, which is better known before images are drawn."""
    extractor = load_features(features, inception_weights, choose_device("auto"))
    if reference.suffix == SUFFIX and not reference.is_dir():
        load_reference(reference, extractor)
    else:
        open_pictures(reference)


def _findings(run: Path, results: dict[Combination, SampleScores]) -> Findings:
    first = next(iter(results.values())).settings
    distance = first["features"]["distance"]
    best = min(results, key=lambda combination: results[combination].scores[distance])
    real = first["reference"]
    rows: list[Row] = [
        {
            "schedule": one.schedule,
            "scale": one.scale,
            "top_k": one.top_k,
            "images": result.settings["samples"]["images"],
            **result.scores,
        }
        for one, result in results.items()
    ]
    summary = {
        "best": f"{best.schedule} to {best.scale:g}, top-k {best.top_k or 'all'}: {' '.join(best.overrides)}",
        f"{distance} of the best": results[best].scores[distance],
        "real floor": f"{distance} {real['real_floor']:.4g} between real images; differences far below it mean nothing",
    }
    settings: dict[str, Any] = {
        "run": str(run),
        "samples": {one.name: result.settings["samples"] for one, result in results.items()},
        **{name: value for name, value in first.items() if name != "samples"},
    }
    title = f"{distance} by guidance and top-k"
    return Findings("sampling", title, rows, summary, settings, lambda: _draw(rows, distance))


def _draw(rows: Sequence[Row], distance: str) -> Figure:
    """Draw the distance by scale: a panel for each top-k, a curve for each schedule, a ring around the best."""
    every_top_k = list(dict.fromkeys(row["top_k"] for row in rows))
    best = min(rows, key=lambda row: row[distance])
    figure = Figure(figsize=(max(5, 4 * len(every_top_k)), 3.6))
    panels = figure.subplots(1, len(every_top_k), sharey=True, squeeze=False)[0]
    for axes, top_k in zip(panels, every_top_k, strict=True):
        shown = [row for row in rows if row["top_k"] == top_k]
        for schedule, colour in zip(dict.fromkeys(row["schedule"] for row in shown), cycle(SERIES)):
            curve = sorted((row["scale"], row[distance]) for row in shown if row["schedule"] == schedule)
            axes.plot(*zip(*curve, strict=True), "o-", color=colour, label=schedule)
        axes.set(title=f"top-k {top_k or 'all'}", xlabel="guidance scale")
        if top_k == best["top_k"]:
            axes.plot(best["scale"], best[distance], "o", color=GREY, ms=13, mfc="none", label="best")
            axes.legend()
    panels[0].set_ylabel(f"{distance}, lower is better")
    return figure

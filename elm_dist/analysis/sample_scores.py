"""The job behind `elm evaluate SAMPLES`: every score of generated images against real ones, and all that decides them.

Definitions are ADM's (Dhariwal & Nichol 2021, appendix): those of published FID, sFID, Inception Score, precision and
recall. In other features than Inception's there is a Frechet distance and precision and recall, under other names.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from elm_dist.analysis.picture_classes import describe_samples
from elm_dist.analysis.picture_sets import open_pictures
from elm_dist.analysis.references import find_reference, measure_pictures
from elm_dist.devices import choose_device
from elm_dist.errors import EvaluationError
from elm_dist.evaluation.features import FeatureExtractor, FeatureName, load_features
from elm_dist.evaluation.image_statistics import ImageStatistics
from elm_dist.evaluation.inception_score import SPLIT
from elm_dist.evaluation.manifold import NEIGHBOURS, precision_and_recall
from elm_dist.evaluation.reference import SUFFIX, Reference, save_reference
from elm_dist.evaluation.scores import frechet_distance
from elm_dist.files import replace_text

SAMPLE_LIMIT = 50_000  # samples for precision and recall: as many as published scores are of

MEANINGS = {
    "sFID": "Frechet distance of Inception's spatial features, lower is better",
    "inception_score": "how sure and how diverse the classes are, higher is better",
    "precision": "share of samples among the reference images",
    "recall": "share of reference images among the samples",
}


@dataclass(frozen=True)
class SampleScores:
    """What was measured, and with which settings; rich prints it as a table."""

    scores: dict[str, float]
    settings: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps({"kind": "samples", "scores": self.scores, "settings": self.settings}, indent=1) + "\n"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        samples, reference, features = (self.settings[name] for name in ("samples", "reference", "features"))
        table = Table(title=f"{samples['images']:,} samples of {samples['path']}")
        table.add_column("score")
        table.add_column("value", justify="right")
        table.add_column("what it is", overflow="fold")
        meanings = {features["distance"]: f"{features['description']}, lower is better", **MEANINGS}
        for name, value in self.scores.items():
            table.add_row(name, f"{value:.4f}", meanings[name])
        yield table
        yield f"reference   {reference['images']:,} images of {reference['path']}, statistics {reference['statistics']}"
        other = "its images and its statistics" if "stored" in reference["statistics"] else "two halves of it"
        yield f"real floor  {other} are {reference['real_floor']:.4f} apart in {features['distance']}"


def evaluate_samples(
    samples: Path,
    reference: Path,
    *,
    features: FeatureName,
    inception_weights: Path | None,
    batch_size: int,
    save_statistics: Path | None = None,
    out: Path | None = None,
) -> SampleScores:
    """Score the images of a folder or npz file against those of another, or against statistics that were saved.

    Writes the scores to `out`, and the reference's statistics to `save_statistics`, for the next time. Raises an
    ElmError for files, sizes and weights that do not do or do not fit each other.
    """
    if save_statistics and save_statistics.suffix != SUFFIX:
        raise EvaluationError(f"--save-statistics {save_statistics}: the name of this file must end in {SUFFIX}")
    pictures = open_pictures(samples)
    described = describe_samples(pictures)
    extractor = load_features(features, inception_weights, choose_device("auto"))
    real = find_reference(reference, pictures.size, extractor, batch_size)
    if save_statistics:
        save_reference(save_statistics, real)
    found = measure_pictures("samples", pictures, extractor, batch_size, SAMPLE_LIMIT)
    settings = {
        "samples": described | {"sha256": found.pixels_sha256},
        "reference": real.facts,
        "features": extractor.facts(),
        "precision_and_recall": {
            "neighbours": NEIGHBOURS,
            "samples": len(found.manifold),
            "reference_images": len(real.manifold),
        },
        "inception_score_split": SPLIT,
        "batch_size": batch_size,
        "device": str(extractor.device),
        "torch": torch.__version__,
    }
    result = SampleScores(_score(found, real, extractor), settings)
    if out:
        replace_text(out, result.to_json())
    return result


def _score(found: ImageStatistics, real: Reference, extractor: FeatureExtractor) -> dict[str, float]:
    scores = {extractor.distance: frechet_distance(real.pooled, found.pooled)}
    if found.spatial and real.spatial:
        scores["sFID"] = frechet_distance(real.spatial, found.spatial)
    if found.inception_score is not None:
        scores["inception_score"] = found.inception_score
    scores["precision"], scores["recall"] = precision_and_recall(real.manifold, found.manifold, extractor.device)
    return scores

"""The job behind `elm evaluate SAMPLES --images DIR`: whether samples look like the class that was asked for.

A linear classifier of features, fitted on real training images, says what each image looks like. It is asked of the
samples, of real held-out images, and of what a tokenizer makes of these: equally many of the same classes, so that the
figures compare. Reconstructions show what the codes cost, before any model drew them.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor

from elm_dist.analysis.picture_classes import describe_samples, read_labels
from elm_dist.analysis.picture_sets import FEWEST_IMAGES, PictureSet, open_pictures
from elm_dist.analysis.real_images import LabelledImages, RealImages, choose_by_class, open_real_images
from elm_dist.checkpoint.tokenizer import load_tokenizer, tokenizer_fingerprint
from elm_dist.devices import choose_device
from elm_dist.errors import EvaluationError
from elm_dist.evaluation.classifier import PENALTY, fit_classifier
from elm_dist.evaluation.features import FeatureExtractor, FeatureName, load_features
from elm_dist.evaluation.scores import FeatureStatistics, frechet_distance
from elm_dist.files import replace_text
from elm_dist.monitoring.speedometer import Speedometer
from elm_dist.tokenizers.build import Tokenizer

FITTED_ON, FITTED_ON_OF_EACH = 3000, 50  # training images, evenly over the classes, and of a class at least
AGREEMENT = "class_agreement"


@dataclass(frozen=True)
class ClassScores:
    """What was measured, and with which settings; rich prints it as a table."""

    scores: dict[str, float]  # "samples class_agreement" and so on
    settings: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps({"kind": "classes", "scores": self.scores, "settings": self.settings}, indent=1) + "\n"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        samples, images = self.settings["samples"], self.settings["images"]
        distance = self.settings["features"]["distance"]
        table = Table(title=f"{samples['compared']:,} samples of {samples['path']}, and as many real images")
        table.add_column("images")
        table.add_column("look like their class", justify="right")
        table.add_column(distance, justify="right")
        for name in dict.fromkeys(name.partition(" ")[0] for name in self.scores):
            table.add_row(name, f"{self.scores[f'{name} {AGREEMENT}']:.1%}", f"{self.scores[f'{name} {distance}']:.4f}")
        yield table
        yield f"classifier  of {images['fitted_on']:,} training images of {images['path']}; distances are to these"
        yield "real        held-out images of the same classes: what can be reached, but for chance"


class _Subject(NamedTuple):
    """Samples, the real images that they are held against, and how many of each class are compared."""

    samples: PictureSet
    labels: NDArray[np.int64]  # of the samples
    train: RealImages
    held_out: RealImages
    counts: NDArray[np.int64]

    def samples_to_compare(self, batch_size: int) -> LabelledImages:
        chosen = choose_by_class(self.labels, self.counts)
        return LabelledImages(_pick(self.samples.batches(batch_size), chosen), self.labels[chosen])


class _Measured(NamedTuple):
    features: Tensor  # (n, dimension), fp32, on the CPU
    labels: Tensor  # (n,), int64
    pixels_sha256: str


def evaluate_classes(
    samples: Path,
    images: Path,
    *,
    tokenizer: Path | None,
    features: FeatureName,
    inception_weights: Path | None,
    batch_size: int,
    out: Path | None = None,
) -> ClassScores:
    """Judge samples, whose folders or arr_1 tell their classes, by real `images`, and write the scores to `out`.

    With a `tokenizer` its reconstructions are judged, too. Raises an ElmError for images, classes, tokenizers and
    weights that do not do or do not fit each other.
    """
    subject, device = _open(samples, images), choose_device("auto")
    described = describe_samples(subject.samples)
    coder = _load_tokenizer(tokenizer, subject.samples, device) if tokenizer else None
    extractor = load_features(features, inception_weights, device)
    classes = len(subject.train.names)
    of_each = np.full(classes, max(-(-FITTED_ON // classes), FITTED_ON_OF_EACH))
    fitted_on = _measure("training images", subject.train.choose(of_each, batch_size), extractor)
    found = _measure_all(subject, coder, extractor, batch_size)
    settings = {
        "samples": described | {"compared": len(found["real"].labels), "sha256": found["samples"].pixels_sha256},
        "images": {
            "path": str(images),
            "classes": classes,
            "fitted_on": len(fitted_on.labels),
            "fitted_on_sha256": fitted_on.pixels_sha256,
            "held_out_sha256": found["real"].pixels_sha256,
        },
        "tokenizer": tokenizer and {"path": str(tokenizer), "sha256": tokenizer_fingerprint(tokenizer)},
        "features": extractor.facts(),
        "classifier_penalty": PENALTY,
        "batch_size": batch_size,
        "device": str(device),
        "torch": torch.__version__,
    }
    result = ClassScores(_score(fitted_on, found, classes, extractor.distance), settings)
    if out:
        replace_text(out, result.to_json())
    return result


def _open(samples: Path, images: Path) -> _Subject:
    pictures = open_pictures(samples)
    train, held_out = open_real_images(images, pictures.size)
    labels = read_labels(pictures, train.names, images)
    counts = np.minimum(*(np.bincount(some, minlength=len(train.names)) for some in (labels, held_out.labels)))
    if counts.sum() < FEWEST_IMAGES:
        raise EvaluationError(
            f"{images}: {counts.sum()} of its held-out images are of the classes of {samples}, and {FEWEST_IMAGES} are "
            "needed at least; add some"
        )
    return _Subject(pictures, labels, train, held_out, counts)


def _load_tokenizer(path: Path, pictures: PictureSet, device: torch.device) -> Tokenizer:
    tokenizer = load_tokenizer(path, device)
    if (size := tokenizer.config.image_size) != pictures.size:
        raise EvaluationError(
            f"{path}: this tokenizer is for {size} pixels, the samples have {pictures.size}; give the one that they "
            "were drawn with"
        )
    return tokenizer


def _measure_all(
    subject: _Subject, coder: Tokenizer | None, extractor: FeatureExtractor, batch_size: int
) -> dict[str, _Measured]:
    """Return what is compared, equally many of each class, by the names that scores begin with."""
    found = {"samples": _measure("samples", subject.samples_to_compare(batch_size), extractor)}
    if coder:
        held_out = subject.held_out.choose(subject.counts, batch_size)
        rebuilt = LabelledImages(_reconstruct(coder, held_out.batches, extractor.device), held_out.labels)
        found["reconstructions"] = _measure("reconstructions", rebuilt, extractor)
    found["real"] = _measure("real images", subject.held_out.choose(subject.counts, batch_size), extractor)
    return found


def _measure(name: str, images: LabelledImages, extractor: FeatureExtractor) -> _Measured:
    """Return the features of images; show how far it is."""
    digest, features, done, total = hashlib.sha256(), [], 0, len(images.labels)
    with Speedometer(name, 0, 1) as speedometer:
        speedometer.show(0, total)
        for batch in images.batches:
            digest.update(batch.tobytes())
            features.append(extractor(_as_tensor(batch, extractor.device)).float().cpu())
            done += len(batch)
            speedometer.show(done, total)
    return _Measured(torch.cat(features), torch.from_numpy(images.labels), digest.hexdigest())


def _pick(batches: Iterator[NDArray[np.uint8]], chosen: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Yield of each batch the images whose numbers over all batches are `chosen`, where there are any."""
    done = 0
    for batch in batches:
        here = chosen[(chosen >= done) & (chosen < done + len(batch))] - done
        done += len(batch)
        if len(here):
            yield batch[here]


@torch.no_grad()
def _reconstruct(
    tokenizer: Tokenizer, batches: Iterator[NDArray[np.uint8]], device: torch.device
) -> Iterator[NDArray[np.uint8]]:
    for batch in batches:
        images = tokenizer.images_from_codes(tokenizer.image_codes(_as_tensor(batch, device)))
        yield (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _as_tensor(batch: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return images (batch, height, width, 3) of files as (batch, 3, height, width) in [0, 1]."""
    return torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 255


def _score(fitted_on: _Measured, found: dict[str, _Measured], classes: int, distance: str) -> dict[str, float]:
    """Return which share of each set looks like its class, and how far it is from the training images."""
    classifier = fit_classifier(fitted_on.features, fitted_on.labels, classes)
    real = FeatureStatistics.of(fitted_on.features)
    scores = {}
    for name, images in found.items():
        agreed = classifier(images.features) == images.labels
        scores[f"{name} {AGREEMENT}"] = agreed.double().mean().item()
        scores[f"{name} {distance}"] = frechet_distance(real, FeatureStatistics.of(images.features))
    return scores

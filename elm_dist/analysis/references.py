"""Reference statistics from wherever a user has them: real images, ADM's npz files, or a file that was saved before."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch

from elm_dist.analysis.picture_sets import NpzPictures, PictureSet, open_pictures
from elm_dist.config import ImageSize
from elm_dist.errors import EvaluationError
from elm_dist.evaluation.features import FeatureExtractor
from elm_dist.evaluation.image_statistics import ImageStatistics, measure_images
from elm_dist.evaluation.inception import SPATIAL_DIMENSION
from elm_dist.evaluation.reference import REFERENCE_LIMIT, SUFFIX, Reference, load_reference
from elm_dist.evaluation.scores import FeatureStatistics, frechet_distance
from elm_dist.monitoring.speedometer import Speedometer

UNCOUNTED = 2**53 + 1  # for a number of images that is not told; less one it is a power of two, which rounds nothing


class Stored(NamedTuple):
    """What an npz of ADM's says of the images that it stands for, of which it holds a few."""

    pooled: FeatureStatistics
    spatial: FeatureStatistics
    sha256: str


def find_reference(path: Path, size: ImageSize, extractor: FeatureExtractor, batch_size: int) -> Reference:
    """Return the reference for samples of `size`: images are measured, which may take long, statistics are read.

    Of an npz with ADM's own statistics, FID and sFID are those to these, as published scores are: of all ImageNet,
    where the file holds 10,000 images. Precision and recall are those to its images. Raises an ElmError for images and
    statistics of another size, other weights, or that cannot be read.
    """
    if path.suffix != SUFFIX or path.is_dir():
        pictures = open_pictures(path, size)
        return _measure(pictures, _read_stored(pictures, extractor), extractor, batch_size)
    reference = load_reference(path, extractor)
    if (found := ImageSize(*reference.facts["image_size"])) != size:
        raise EvaluationError(f"{path}: it is of images of {found}, the samples have {size} pixels; use one size")
    return reference


def measure_pictures(
    name: str, pictures: PictureSet, extractor: FeatureExtractor, batch_size: int, limit: int
) -> ImageStatistics:
    """Return the statistics of `pictures`, and the features of up to `limit` of them; show how far it is."""
    with Speedometer(name, 0, 1) as speedometer:
        total = len(pictures)
        batches = pictures.batches(batch_size)
        return measure_images(extractor, batches, total, limit, lambda done: speedometer.show(done, total))


def _measure(pictures: PictureSet, stored: Stored | None, extractor: FeatureExtractor, batch_size: int) -> Reference:
    found = measure_pictures("reference", pictures, extractor, batch_size, REFERENCE_LIMIT)
    floor = (found.pooled, stored.pooled) if stored else found.halves
    identity = hashlib.sha256((found.pixels_sha256 + stored.sha256).encode()).hexdigest() if stored else None
    facts = pictures.facts() | {
        "images": len(pictures),
        "image_size": list(pictures.size),
        "statistics": "stored in the file by ADM" if stored else "of these images",
        "sha256": identity or found.pixels_sha256,
        "features": extractor.name,
        "weights_sha256": extractor.weights_sha256,
        "real_floor": frechet_distance(*floor),
    }
    if stored:
        return Reference(stored.pooled, stored.spatial, found.manifold, facts)
    return Reference(found.pooled, found.spatial, found.manifold, facts)


def _read_stored(pictures: PictureSet, extractor: FeatureExtractor) -> Stored | None:
    if not isinstance(pictures, NpzPictures) or extractor.name != "inception":
        return None
    arrays = pictures.stored_statistics(extractor.dimension, SPATIAL_DIMENSION)
    if arrays is None:
        return None
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    mu, mu_s, sigma, sigma_s = (torch.from_numpy(arrays[name]) for name in ("mu", "mu_s", "sigma", "sigma_s"))
    return Stored(
        FeatureStatistics.from_covariance(UNCOUNTED, mu, sigma),
        FeatureStatistics.from_covariance(UNCOUNTED, mu_s, sigma_s),
        digest.hexdigest(),
    )

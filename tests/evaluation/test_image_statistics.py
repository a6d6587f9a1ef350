"""One pass over images: the same however they are cut into batches, and no larger than it may be."""

import hashlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from elm_dist.evaluation.features import FeatureExtractor
from elm_dist.evaluation.image_statistics import ImageStatistics, measure_images


def images(count: int) -> NDArray[np.uint8]:
    """Return images of 2 x 2 pixels."""
    return np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3), np.uint8)


def measure(pixels: NDArray[np.uint8], batch: int = 4, limit: int = 100) -> ImageStatistics:
    """Measure with the pixels themselves as features, (batch, 12), channel by channel."""
    net = FeatureExtractor("mobilenet_v2", "FD", "of pixels", 12, "0" * 64, nn.Flatten(), torch.device("cpu"))
    batches = (pixels[start : start + batch] for start in range(0, len(pixels), batch))
    return measure_images(net, batches, len(pixels), limit)


def features(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), 12) / 255


@pytest.mark.parametrize("batch", [1, 3, 4, 20])
def test_batches_do_not_matter(batch: int) -> None:
    pixels = images(11)
    found = measure(pixels, batch)
    np.testing.assert_allclose(found.pooled.mean, features(pixels).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.pooled.covariance, np.cov(features(pixels).T), rtol=1e-5, atol=1e-8)
    for half in range(2):
        np.testing.assert_allclose(found.halves[half].mean, features(pixels[half::2]).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.manifold, features(pixels), rtol=1e-6)
    assert found.pixels_sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert (found.spatial, found.inception_score) == (None, None)  # Inception's alone


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_of_many_images_the_features_of_a_few_are_kept_evenly_spread(batch: int) -> None:
    pixels = images(11)
    found = measure(pixels, batch, limit=4)
    np.testing.assert_allclose(found.manifold, features(pixels)[[0, 2, 5, 8]], rtol=1e-6)
    assert found.pooled.count == 11


def test_progress_is_told() -> None:
    told: list[int] = []
    pixels = images(5)
    net = FeatureExtractor("mobilenet_v2", "FD", "of pixels", 12, "0" * 64, nn.Flatten(), torch.device("cpu"))
    measure_images(net, [pixels[:3], pixels[3:]], 5, 100, told.append)
    assert told == [0, 3, 5]

"""What is kept of images to score them: sums over all, and features of some. Knows nothing of where they come from."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.evaluation.features import FeatureExtractor
from elm_dist.evaluation.inception_score import InceptionScore
from elm_dist.evaluation.scores import FeatureStatistics


@dataclass(frozen=True)
class ImageStatistics:
    """What `measure_images` returns; everything on the CPU."""

    halves: tuple[FeatureStatistics, FeatureStatistics]  # of every other image each
    spatial: FeatureStatistics | None  # Inception's alone, like the score
    inception_score: float | None
    manifold: Tensor  # (n, dimension), fp32: the features of all images or of some, evenly spread
    pixels_sha256: str

    @property
    def pooled(self) -> FeatureStatistics:
        return self.halves[0] + self.halves[1]


def measure_images(
    extractor: FeatureExtractor,
    batches: Iterable[NDArray[np.uint8]],
    count: int,
    manifold_limit: int,
    on_images: Callable[[int], None] = lambda done: None,
) -> ImageStatistics:
    """Measure `count` images that come in batches (batch, height, width, 3); `on_images` is told how many are done.

    Memory does not grow with the images, but for the features of up to `manifold_limit` of them.
    """
    meter = _Meter(extractor)
    kept = np.arange(min(manifold_limit, count)) * count // min(manifold_limit, count)
    on_images(0)
    for batch in batches:
        here = kept[(kept >= meter.count) & (kept < meter.count + len(batch))] - meter.count
        meter.update(batch, here)
        on_images(meter.count)
    assert meter.count == count
    return meter.statistics()


class _Meter:
    """Everything that is counted over one pass."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.count = 0
        self._extractor = extractor
        nothing = FeatureStatistics.of(torch.empty(0, extractor.dimension, device=extractor.device))
        self._halves = [nothing, nothing]
        self._spatial: FeatureStatistics | None = None
        self._score: InceptionScore | None = None
        self._manifold: list[Tensor] = []
        self._pixels = hashlib.sha256()

    def update(self, batch: NDArray[np.uint8], kept: NDArray[np.int64]) -> None:
        """Measure a batch (batch, height, width, 3), and keep the features of the images with the numbers `kept`."""
        self._pixels.update(batch.tobytes())
        images = torch.from_numpy(batch).to(self._extractor.device).permute(0, 3, 1, 2).float() / 255
        found = self._extractor.all_features(images)
        for half in range(2):
            self._halves[half] += FeatureStatistics.of(found.pooled[(half + self.count) % 2 :: 2])
        if found.spatial is not None:
            spatial = FeatureStatistics.of(found.spatial)
            self._spatial = self._spatial + spatial if self._spatial else spatial
        if found.logits is not None:
            self._score = self._score or InceptionScore()
            self._score.update(found.logits)
        self._manifold.append(found.pooled[torch.from_numpy(kept).to(found.pooled.device)].float().cpu())
        self.count += len(batch)

    def statistics(self) -> ImageStatistics:
        first, second = self._halves
        return ImageStatistics(
            halves=(first.cpu(), second.cpu()),
            spatial=self._spatial and self._spatial.cpu(),
            inception_score=self._score.value() if self._score else None,
            manifold=torch.cat(self._manifold),
            pixels_sha256=self._pixels.hexdigest(),
        )

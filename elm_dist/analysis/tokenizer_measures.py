"""Everything that a report says of a tokenizer, measured in one pass over images. Knows nothing of files and pages."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.evaluation.code_statistics import CodeCounter, CodeStatistics
from elm_dist.evaluation.features import FeatureExtractor
from elm_dist.evaluation.reconstruction import measure_psnr, measure_ssim
from elm_dist.evaluation.scores import FeatureStatistics, frechet_distance
from elm_dist.tokenizers.build import Tokenizer

SHOWN = 8  # images that are shown, evenly spread, and as many of those that came back worst


class Example(NamedTuple):
    image: NDArray[np.uint8]  # (H, W, 3)
    reconstruction: NDArray[np.uint8]
    psnr_db: float


class FrechetScores(NamedTuple):
    reconstruction: float  # between the images and their reconstructions
    real_halves: float  # between two halves of the images: what chance does, with half as many images


@dataclass(frozen=True)
class TokenizerMeasures:
    """What `measure_tokenizer` returns; everything on the CPU."""

    psnr_db: Tensor  # (images,), float64
    ssim: Tensor  # (images,), float32
    codes: CodeStatistics
    frechet: FrechetScores | None  # None without features to measure it in
    typical: list[Example]
    worst: list[Example]  # the worst first


def measure_tokenizer(
    tokenizer: Tokenizer, batches: Iterable[Tensor], count: int, features: FeatureExtractor | None
) -> TokenizerMeasures:
    """Measure `tokenizer` on `count` images in batches (batch, 3, H, W) in [0, 1], which lie on its device.

    Reconstructions are rounded to the 256 levels of an image file, as those that published scores are of.
    """
    config = tokenizer.config
    counter = CodeCounter(tokenizer.code_shape, config.codebook_size or 2**config.code_bits)
    frechet = _FrechetMeter(features) if features else None
    psnr: list[Tensor] = []
    ssim: list[Tensor] = []
    typical: list[Example] = []
    worst: list[Example] = []
    shown, done = {place * count // SHOWN for place in range(SHOWN)}, 0
    for images in batches:
        codes = tokenizer.image_codes(images)
        reconstruction = (tokenizer.images_from_codes(codes) * 255).round() / 255
        counter.update(codes)
        if frechet:
            frechet.update(images, reconstruction)
        psnr.append(measure_psnr(reconstruction, images).cpu())
        ssim.append(measure_ssim(reconstruction, images).cpu())
        rows = zip(_levels(images), _levels(reconstruction), psnr[-1].tolist(), strict=True)
        examples = [Example(*row) for row in rows]
        typical += [example for index, example in enumerate(examples, done) if index in shown]
        worst = sorted(worst + examples, key=lambda example: example.psnr_db)[:SHOWN]
        done += len(images)
    scores = frechet.scores() if frechet else None
    return TokenizerMeasures(torch.cat(psnr), torch.cat(ssim), counter.statistics(), scores, typical, worst)


class _FrechetMeter:
    """Gathers the features of images, every other one in the same half, and of their reconstructions."""

    def __init__(self, features: FeatureExtractor) -> None:
        self._features = features
        nothing = FeatureStatistics.of(torch.empty(0, features.dimension, device=features.device))
        self._halves, self._reconstruction = [nothing, nothing], nothing

    def update(self, images: Tensor, reconstruction: Tensor) -> None:
        found, done = self._features(images), self._reconstruction.count
        for half in range(2):
            self._halves[half] += FeatureStatistics.of(found[(half + done) % 2 :: 2])
        self._reconstruction += FeatureStatistics.of(self._features(reconstruction))

    def scores(self) -> FrechetScores:
        first, second = self._halves
        return FrechetScores(
            reconstruction=frechet_distance(first + second, self._reconstruction),
            real_halves=frechet_distance(first, second),
        )


def _levels(images: Tensor) -> NDArray[np.uint8]:
    """Return images (batch, 3, H, W) in [0, 1] as those of a file, (batch, H, W, 3)."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

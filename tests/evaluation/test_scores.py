"""The Frechet distance against its closed form, another square root, and torchmetrics."""

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from elm_dist.evaluation.scores import FeatureStatistics, frechet_distance


def draw(count: int, dimension: int, seed: int) -> Tensor:
    """Return features whose dimensions depend on each other and whose mean is far from 0."""
    generator = torch.Generator().manual_seed(seed)
    mixture = torch.randn(dimension, dimension, generator=generator)
    return torch.randn(count, dimension, generator=generator) @ mixture + 5 * seed + 100


def statistics(mean: Any, covariance: Any) -> FeatureStatistics:
    """Return the statistics of a Gaussian, as if of very many samples."""
    count = 1_000_001
    return FeatureStatistics(count, torch.as_tensor(mean).double(), torch.as_tensor(covariance).double() * (count - 1))


@pytest.mark.parametrize("parts", [[50], [1, 49], [7, 0, 30, 13]])
def test_parts_add_up_to_the_whole(parts: list[int]) -> None:
    features = draw(50, 6, seed=1)
    total = FeatureStatistics.of(features[:0])
    for part in features.split(parts):
        total += FeatureStatistics.of(part)
    assert total.count == 50
    np.testing.assert_allclose(total.mean, features.double().mean(dim=0), rtol=1e-12)
    np.testing.assert_allclose(total.covariance, np.cov(features.double().numpy().T), rtol=1e-9)


def test_a_mean_far_away_costs_no_digits() -> None:
    features = draw(1000, 3, seed=2).double()
    far = sum((FeatureStatistics.of(part + 1e6) for part in features.split(10)), FeatureStatistics.of(features[:0]))
    np.testing.assert_allclose(far.covariance, np.cov(features.numpy().T), rtol=1e-8)


def test_diagonal_gaussians_have_a_closed_form() -> None:
    means, deviations = torch.tensor([[0.0, 1, 2], [3, 1, -2]]), torch.tensor([[1.0, 2, 0], [3, 0.5, 4]])
    first, second = (statistics(mean, torch.diag(d**2)) for mean, d in zip(means, deviations, strict=True))
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("counts", [(200, 300), (10, 300), (10, 15)], ids=["full", "one of low rank", "both"])
def test_it_is_that_of_a_general_square_root(counts: tuple[int, int]) -> None:
    features = [draw(count, 24, seed).double().numpy() for seed, count in enumerate(counts)]
    means, covariances = [f.mean(axis=0) for f in features], [np.cov(f.T) for f in features]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    first, second = (FeatureStatistics.of(torch.from_numpy(f)) for f in features)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-6)


def test_it_is_that_of_torchmetrics() -> None:
    class Flat(nn.Module):
        num_features = 12

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    generator = torch.Generator().manual_seed(0)
    real, other = (torch.rand(count, 3, 2, 2, generator=generator) ** power for count, power in ((60, 1), (70, 2)))
    metric = FrechetInceptionDistance(feature=Flat(), normalize=True, input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(other, real=False)
    found = frechet_distance(*(FeatureStatistics.of(images.flatten(1)) for images in (real, other)))
    assert found == pytest.approx(metric.compute().item(), rel=1e-4)


@pytest.mark.parametrize("count", [5, 100])
def test_equal_sets_are_at_no_distance(count: int) -> None:
    same = FeatureStatistics.of(draw(count, 20, seed=1))
    assert frechet_distance(same, same) == pytest.approx(0, abs=1e-3)
    assert frechet_distance(same, same) >= 0


def test_it_warns_of_fewer_images_than_dimensions(caplog: pytest.LogCaptureFixture) -> None:
    few, enough = FeatureStatistics.of(draw(19, 20, seed=1)), FeatureStatistics.of(draw(20, 20, seed=2))
    frechet_distance(enough, enough)
    assert not caplog.messages
    frechet_distance(enough, few)
    assert caplog.messages == ["a Frechet distance of 19 images in 20 dimensions says little, use more images"]

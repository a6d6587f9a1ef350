"""The Frechet distance of two sets of features, from their means and covariances. Knows nothing of images and nets."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of features that come in parts: add up the parts. Memory is that of one d x d matrix."""

    count: int
    mean: Tensor  # (d,), float64
    scatter: Tensor  # (d, d), float64: the outer products of the deviations from the mean, summed

    @classmethod
    def of(cls, features: Tensor) -> "FeatureStatistics":
        """Return the statistics of features (n, d), on their device; n may be 0."""
        wide = features.double()
        mean = wide.sum(dim=0) / max(len(wide), 1)
        deviations = wide - mean
        return cls(len(wide), mean, deviations.T @ deviations)

    @classmethod
    def from_covariance(cls, count: int, mean: Tensor, covariance: Tensor) -> "FeatureStatistics":
        """Return statistics that were stored: a mean (d,) and an unbiased covariance (d, d)."""
        return cls(count, mean.double(), covariance.double() * (count - 1))

    def cpu(self) -> "FeatureStatistics":
        return FeatureStatistics(self.count, self.mean.cpu(), self.scatter.cpu())

    def __add__(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Return the statistics of both sets together (Chan, Golub & LeVeque 1983, which cancels no digits)."""
        count = self.count + other.count
        share = other.count / max(count, 1)
        step = other.mean - self.mean
        between = torch.outer(step, step) * (self.count * share)
        return FeatureStatistics(count, self.mean + step * share, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (d, d); there must be two samples or more."""
        return self.scatter / (self.count - 1)


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al. 2017), 0 for equal statistics.

    Its bias falls with the number of samples, so compare only distances of equally many. Below as many as there are
    dimensions the covariances have no full rank; the distance is still defined then, and a warning is logged.
    """
    fewest, dimension = min(first.count, second.count), len(first.mean)
    if fewest < dimension:
        log.warning(
            "a Frechet distance of %s images in %s dimensions says little, use more images", f"{fewest:,}", dimension
        )
    # C1 C2 has the eigenvalues of the symmetric R^T C2 R, where C1 = R R^T. These are real and not negative, even where
    # ranks are missing, which a general square root does not survive; and R is as narrow as the rank of C1.
    values, vectors = torch.linalg.eigh(first.covariance)
    is_positive = values > values[-1] * dimension * torch.finfo(values.dtype).eps
    root = vectors[:, is_positive] * values[is_positive].sqrt()
    overlap = torch.linalg.eigvalsh(root.T @ second.covariance @ root).clamp_min(0).sqrt().sum()
    spread = first.covariance.trace() + second.covariance.trace() - 2 * overlap
    return ((first.mean - second.mean).square().sum() + spread).clamp_min(0).item()

"""A linear classifier of features: which class an image looks like. Knows nothing of images and nets."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Of 3,000 training images of CIFAR-10 in MobileNetV2's features, 0.1 predicts other training images best: 82.3 %, where
# a tenth and ten times as much predict 81.0 and 81.4 %.
PENALTY = 0.1
LARGEST_GRADIENT = 1e-6  # where the optimum counts as found
ITERATIONS = 1000  # about 120 are needed


@dataclass(frozen=True)
class LinearClassifier:
    """What `fit_classifier` returns; fp64, on the CPU."""

    mean: Tensor  # (d,), of the features that it was fitted on
    deviation: Tensor  # (d,), of the same; 1 for a feature that never changed
    weight: Tensor  # (classes, d)
    bias: Tensor  # (classes,)

    def __call__(self, features: Tensor) -> Tensor:
        """Return the likeliest class (n,), int64, of each of the features (n, d)."""
        return self.logits(features).argmax(dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (n, classes) of features (n, d)."""
        return (features.double() - self.mean) / self.deviation @ self.weight.T + self.bias


def fit_classifier(features: Tensor, labels: Tensor, classes: int, penalty: float = PENALTY) -> LinearClassifier:
    """Return the logistic regression with the smallest mean cross entropy + `penalty` / 2 x |weight|^2.

    Features are (n, d), labels (n,) int64, all on the CPU. The problem is convex: there is one answer, and no seed.
    """
    wide = features.double()
    mean, deviation = wide.mean(dim=0), wide.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1)
    standardised = (wide - mean) / deviation
    weight = torch.zeros(classes, wide.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=ITERATIONS,
        tolerance_grad=LARGEST_GRADIENT,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(standardised @ weight.T + bias, labels) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return LinearClassifier(mean, deviation, weight.detach(), bias.detach())

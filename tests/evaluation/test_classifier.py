"""The linear classifier: at its optimum, by hand where that can be, and on classes that a plane parts."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elm_dist.evaluation.classifier import PENALTY, fit_classifier


def draw(count: int, classes: int = 3, dimension: int = 5, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return features in round clouds whose middles are `apart`, on scales from 0.01 to 100, and their labels."""
    numbers = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    middles = apart * torch.eye(classes, dimension)
    features = middles[labels] + torch.randn(count, dimension, generator=numbers)
    return features * torch.logspace(-2, 2, dimension) + 7, labels


@pytest.mark.parametrize("penalty", [0.001, PENALTY, 10])
def test_nothing_is_to_be_gained_around_the_answer(penalty: float) -> None:
    features, labels = draw(200)
    found = fit_classifier(features, labels, 3, penalty)
    wide = features.double()
    standardised = (wide - wide.mean(dim=0)) / wide.var(dim=0, correction=0).sqrt()
    weight, bias = (tensor.clone().requires_grad_() for tensor in (found.weight, found.bias))
    loss = F.cross_entropy(standardised @ weight.T + bias, labels) + penalty / 2 * (weight**2).sum()
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert gradient.abs().max() < 2e-6
    torch.testing.assert_close(found.logits(features), standardised @ found.weight.T + found.bias)


def test_two_points_are_parted_as_the_formula_says() -> None:
    """Weights are (-w, w) by symmetry, and penalty x w = 1 / (1 + e^2w) where the derivative is 0."""
    found = fit_classifier(torch.tensor([[3.0], [5.0]]), torch.tensor([0, 1]), 2, penalty=0.1)
    w = found.weight[1, 0].item()
    assert found.weight[0, 0].item() == pytest.approx(-w)
    assert 0.1 * w == pytest.approx(1 / (1 + math.exp(2 * w)), rel=1e-5)
    assert found.bias.abs().max() < 1e-6


def test_features_that_say_nothing_leave_the_shares_of_the_classes() -> None:
    """And the second never changes, which must not divide by nothing."""
    features = torch.tensor([[-1.0, 4.0], [1.0, 4.0]]).repeat(8, 1)
    labels = torch.tensor([0] * 12 + [1] * 4)
    found = fit_classifier(features, labels, 2)
    torch.testing.assert_close(
        found.logits(features).softmax(dim=1), torch.tensor([[0.75, 0.25]]).double().expand(16, 2), atol=1e-5, rtol=0
    )


def test_classes_that_a_plane_parts_are_told_apart() -> None:
    features, labels = draw(300, apart=12)
    found = fit_classifier(features[:150], labels[:150], 3)
    assert found(features[150:]).equal(labels[150:])


def test_the_same_answer_each_time_and_whatever_the_scale() -> None:
    features, labels = draw(100)
    first = fit_classifier(features, labels, 3)
    assert fit_classifier(features, labels, 3).weight.equal(first.weight)
    torch.testing.assert_close(fit_classifier(1000 * features - 3, labels, 3).weight, first.weight, atol=1e-4, rtol=0)

"""Precision and recall of sets whose answer is known, and by the definition on small ones."""

import numpy as np
import pytest
import torch
from torch import Tensor

from elm_dist.evaluation import manifold
from elm_dist.evaluation.manifold import precision_and_recall

CPU = torch.device("cpu")


def draw(count: int, dimension: int, seed: int) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def by_definition(real: Tensor, generated: Tensor) -> tuple[float, float]:
    """Return precision and recall from all differences, one by one."""

    def covered(points: np.ndarray, others: np.ndarray) -> float:
        apart = np.linalg.norm(others[:, None] - others[None], axis=2)
        radii = np.sort(apart, axis=1)[:, 3]  # the first is 0, to itself
        return float((np.linalg.norm(points[:, None] - others[None], axis=2) <= radii).any(axis=1).mean())

    one, two = real.double().numpy(), generated.double().numpy()
    return covered(two, one), covered(one, two)


def test_equal_sets_cover_each_other() -> None:
    features = draw(40, 8, seed=0)
    assert precision_and_recall(features, features.clone(), CPU) == (1, 1)
    same = torch.ones(10, 8)
    assert precision_and_recall(same, same.clone(), CPU) == (1, 1)


def test_sets_far_apart_do_not_meet() -> None:
    assert precision_and_recall(draw(20, 8, seed=0), draw(30, 8, seed=1) + 1000, CPU) == (0, 0)


def test_samples_of_one_kind_are_precise_and_do_not_cover() -> None:
    real = torch.cat([draw(20, 4, seed=0), draw(20, 4, seed=1) + 1000])
    precision, recall = precision_and_recall(real, draw(20, 4, seed=0) * 0.99, CPU)
    assert precision == 1
    assert recall == 0.5


def test_numbers_on_a_line() -> None:
    # Radii of the real ones: 3, 2, 2, 3, 99. So 100 covers 103 and 199, and no more.
    real = torch.tensor([[0.0], [1], [2], [3], [100]])
    generated = torch.tensor([[103.0], [199], [200], [201], [202]])
    precision, recall = precision_and_recall(real, generated, CPU)
    assert precision == 2 / 5
    assert recall == 1 / 5  # 103 reaches 98 down, to 5


@pytest.mark.parametrize("block", [2, 5, 2048])
def test_it_is_as_defined_however_it_is_cut(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifold, "BLOCK", block)
    real, generated = draw(23, 3, seed=0), draw(31, 3, seed=1) * 1.5 + 0.3
    expected = by_definition(real, generated)
    assert precision_and_recall(real, generated, CPU) == pytest.approx(expected)
    assert 0 < expected[0] < 1
    assert 0 < expected[1] < 1

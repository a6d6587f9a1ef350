"""The learning rate's course: up in equal parts, down along half a cosine, or constant."""

import math
from itertools import pairwise

import pytest

from elm_dist.training.optimizer import scheduled_learning_rate


def test_it_rises_in_equal_parts_to_the_peak() -> None:
    rates = [scheduled_learning_rate(step, 100, 1.0, 4, 0.1) for step in range(5)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_it_falls_along_half_a_cosine_to_the_final_share() -> None:
    rates = [scheduled_learning_rate(step, 104, 2.0, 3, 0.1) for step in range(3, 104)]
    assert rates[0] == 2.0
    assert rates[25] == pytest.approx(2 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2))
    assert rates[50] == pytest.approx(2 * 0.55)
    assert rates[100] == pytest.approx(0.2)
    assert all(later <= earlier for earlier, later in pairwise(rates))


def test_a_share_of_one_is_constant() -> None:
    assert {scheduled_learning_rate(step, 50, 1e-4, 0, 1.0) for step in range(50)} == {1e-4}


def test_one_step_and_steps_past_the_end() -> None:
    assert scheduled_learning_rate(0, 1, 1.0, 0, 0.1) == 1.0
    assert scheduled_learning_rate(500, 100, 1.0, 10, 0.1) == pytest.approx(0.1)

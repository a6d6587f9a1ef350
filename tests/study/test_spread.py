"""Intervals against textbook formulas, and Student's t against its own density."""

import math
from statistics import mean, stdev

import numpy as np
import pytest

from elm_dist.study.spread import STUDENT_T, Layout

VALUES = {("a", 0): 1.0, ("a", 1): 2.0, ("b", 0): 1.4, ("b", 1): 2.6}


def test_pairs_are_a_paired_t_test() -> None:
    differences = [VALUES["b", seed] - VALUES["a", seed] for seed in (0, 1)]
    half = STUDENT_T[0] * stdev(differences) / math.sqrt(2)
    found = Layout(VALUES, paired=True).difference("b", "a")
    assert found == pytest.approx((mean(differences), mean(differences) - half, mean(differences) + half))


def test_unpaired_values_are_a_pooled_t_test() -> None:
    pooled = math.sqrt((stdev([1.0, 2.0]) ** 2 + stdev([1.4, 2.6]) ** 2) / 2)
    layout = Layout(VALUES, paired=False)
    found = layout.difference("b", "a")
    assert (layout.deviation, layout.freedom) == (pytest.approx(pooled), 2)
    assert found.high - found.value == pytest.approx(STUDENT_T[1] * pooled)


def test_what_a_seed_does_to_all_is_taken_out() -> None:
    shifted = {(name, seed): value + 100 * seed for (name, seed), value in VALUES.items()}
    assert Layout(shifted, paired=True).difference("b", "a") == pytest.approx(
        Layout(VALUES, paired=True).difference("b", "a")
    )
    assert Layout(shifted, paired=False).deviation > 50


def test_a_seed_that_one_variant_has_alone_changes_no_difference() -> None:
    more = {**VALUES, ("a", 2): 77.0}
    assert Layout(more, paired=True).difference("b", "a") == pytest.approx(
        Layout(VALUES, paired=True).difference("b", "a")
    )
    assert Layout(more, paired=True).of("a") == [1.0, 2.0, 77.0]


def test_seeds_of_others_make_an_interval_smaller() -> None:
    noise = np.random.default_rng(0).normal(size=(12, 2))
    many = {(f"v{row}", seed): float(noise[row, seed]) for row in range(12) for seed in (0, 1)}
    few = {key: value for key, value in many.items() if key[0] in ("v0", "v1")}
    widths = [(found := Layout(values, True).difference("v1", "v0")).high - found.low for values in (few, many)]
    assert Layout(many, True).freedom == 11
    assert widths[1] < widths[0] or Layout(few, True).deviation < 0.2 * Layout(many, True).deviation


@pytest.mark.parametrize("freedom", range(1, len(STUDENT_T) + 1))
def test_the_table_leaves_one_in_twenty_out(freedom: int) -> None:
    x = np.linspace(0, STUDENT_T[freedom - 1], 20_001)
    density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    assert 2 * scale * np.trapezoid(density, x) == pytest.approx(0.95, abs=1e-4)

"""Draws are pure functions of seed, purpose and index, uniform, and independent across all three."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from elm_dist.randomness import derive_seed, generator, uniforms

SEEDS = st.integers(0, 2**32 - 1)
MANY = np.arange(200_000)


def test_seeds_of_a_run_stay_the_same_for_good() -> None:
    # Written down: a change of any of these changes every run and breaks exact resumes.
    assert derive_seed(0, "weights", "block_3.attention.qkv.weight") == 8741792742396365214
    assert uniforms(7, "class_dropout", np.arange(2)).tolist() == [0.12592692168099362, 0.23187608108760338]
    assert generator(7, "order", 1).integers(0, 1000, 4).tolist() == [732, 273, 278, 357]


@given(SEEDS, st.lists(st.text() | st.integers(), max_size=3))
def test_seeds_fit_torch_and_numpy(seed: int, what: list[str | int]) -> None:
    assert 0 <= derive_seed(seed, *what) < 2**63


def test_seeds_differ_by_seed_purpose_and_order() -> None:
    purposes = [("a",), ("b",), ("a", 0), ("a", 1), (0, "a"), ("a", "b"), ("b", "a")]
    seeds = {derive_seed(seed, *what) for seed in range(100) for what in purposes}
    assert len(seeds) == 100 * len(purposes)


def test_generators_repeat_themselves_and_differ_by_purpose() -> None:
    draw = generator(1, "order", 2).random(8)
    assert (draw == generator(1, "order", 2).random(8)).all()
    assert not (draw == generator(1, "order", 3).random(8)).any()


@given(SEEDS, hnp.arrays(np.int64, st.integers(1, 50), elements=st.integers(0, 2**63 - 1)), st.data())
def test_a_draw_does_not_depend_on_the_others(seed: int, indices: np.ndarray, data: st.DataObject) -> None:
    some = data.draw(st.lists(st.sampled_from(range(len(indices))), min_size=1))
    assert (uniforms(seed, "mask", indices)[some] == uniforms(seed, "mask", indices[some])).all()


@pytest.mark.parametrize("start", [0, 10**12])
def test_draws_are_uniform(start: int) -> None:
    draws = uniforms(3, "mask", start + MANY)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, bins=100, range=(0, 1))[0]
    chi_square = float(((counts - 2000.0) ** 2 / 2000.0).sum())
    assert 55 < chi_square < 155  # 99 degrees of freedom: outside with a chance of about 1 in 1000


def test_neighbours_seeds_and_purposes_are_uncorrelated() -> None:
    draws = uniforms(0, "mask", MANY)
    others = [draws[1:], uniforms(1, "mask", MANY), uniforms(0, "flip", MANY), uniforms(0, "mask", MANY + MANY.size)]
    for other in others:
        correlation = np.corrcoef(draws[: other.size], other)[0, 1]
        assert abs(correlation) < 0.01  # 4.5 standard errors of 1 / sqrt(200,000)


def test_draws_match_a_plain_statement_of_splitmix64() -> None:
    indices = np.array([0, 1, 2**40, 2**62])
    assert uniforms(5, "mask", indices).tolist() == [splitmix64(derive_seed(5, "mask"), int(i)) for i in indices]


def splitmix64(seed: int, index: int) -> float:
    """The finalizer of splitmix64 at counter `index`, in Python's own integers."""
    z = (seed + index * 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return ((z ^ (z >> 31)) >> 11) / 2**53

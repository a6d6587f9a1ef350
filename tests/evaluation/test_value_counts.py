"""Counting numbers as they come: against Python's own counter, and in the memory of those that differ."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_dist.evaluation import value_counts
from elm_dist.evaluation.value_counts import ValueCounter, ValueCounts

INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)


def count(*batches: list[int]) -> ValueCounts:
    counter = ValueCounter()
    for batch in batches:
        counter.update(torch.tensor(batch, dtype=torch.int64))
    return counter.counts()


@settings(deadline=None)
@given(st.lists(st.lists(INT64), min_size=1))
def test_the_counts_are_those_of_python(batches: list[list[int]]) -> None:
    found = count(*batches)
    expected = Counter(value for batch in batches for value in batch)
    assert list(zip(found.values.tolist(), found.counts.tolist(), strict=True)) == sorted(expected.items())
    assert (found.distinct, found.total) == (len(expected), expected.total())


@settings(deadline=None)
@given(st.lists(INT64, min_size=1), st.lists(INT64))
def test_any_value_can_be_asked_for(values: list[int], asked: list[int]) -> None:
    expected = Counter(values)
    assert count(values).of(torch.tensor(asked, dtype=torch.int64)).tolist() == [expected[value] for value in asked]


def test_values_that_become_the_same_are_added_up() -> None:
    found = count([10, 10, 11, 25])
    tens = found.merged(found.values // 10)
    assert (tens.values.tolist(), tens.counts.tolist()) == ([1, 2], [3, 1])


def test_entropy_by_hand() -> None:
    assert count([5]).entropy_nats == 0
    assert count([1, 2, 3, 4]).entropy_nats == pytest.approx(math.log(4))
    assert count([1, 1, 2, 3]).entropy_nats == pytest.approx(1.5 * math.log(2))


def test_memory_is_that_of_different_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_counts, "COUNTED_TOGETHER", 100)
    counter = ValueCounter()
    waiting = []
    for _ in range(100):
        counter.update(torch.randint(0, 256, (5, 4)))
        waiting.append(sum(map(len, counter._waiting)))
    assert max(waiting) < max(100, 256) + 20
    assert any(after < before for before, after in pairwise(waiting))
    assert counter._known.distinct <= 256

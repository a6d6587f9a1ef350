"""Counts of codes and bits: by hand on a few codes, against numpy on many, and the same however they come."""

import numpy as np
import pytest
import torch
from torch import Tensor

from elm_dist.codes.packing import pack_bits, subtokens_to_bits
from elm_dist.codes.subtokens import CodeShape
from elm_dist.evaluation import value_counts
from elm_dist.evaluation.code_statistics import CodeCounter, CodeStatistics


def count(codes: Tensor, code_bits: int, batches: list[int] | None = None, possible: int = 0) -> CodeStatistics:
    """Return the statistics of codes (images, positions), which are counted in batches of so many images."""
    shape = CodeShape(codes.shape[1], 1, code_bits)
    counter = CodeCounter(shape, possible or 2**code_bits)
    packed = pack_bits(subtokens_to_bits(codes, code_bits))
    for part in packed.split(batches or len(codes)):
        counter.update(part)
    return counter.statistics()


def test_a_few_codes_by_hand() -> None:
    found = count(torch.tensor([[0b110, 0b110], [0b011, 0b000]]), code_bits=3)
    assert (found.codes, found.possible, found.used) == (4, 8, 3)
    assert found.values.values.tolist() == [0b000, 0b011, 0b110]
    assert found.counts.tolist() == [2, 1, 1]
    assert found.utilization == 3 / 8
    assert found.entropy_bits == pytest.approx(1.5)
    assert found.perplexity == pytest.approx(2**1.5)
    assert found.ones.tolist() == [0.5, 0.75, 0.25]
    quarter = 0.25 * 2 + 0.75 * np.log2(4 / 3)
    np.testing.assert_allclose(found.bit_entropies, [1, quarter, quarter])
    near, far = 0.125 / (0.5 * 0.1875**0.5), -0.125 / (0.5 * 0.1875**0.5)
    third = (0.25 - 0.75 * 0.25) / 0.1875
    np.testing.assert_allclose(found.correlation, [[1, near, far], [near, 1, third], [far, third, 1]])
    assert found.mean_correlation == pytest.approx((2 * near + third) / 3)


def test_bits_that_never_change_say_nothing_and_go_with_none() -> None:
    found = count(torch.tensor([[0b100, 0b101]]), code_bits=3)
    assert found.bit_entropies.tolist() == [0, 0, 1]
    np.testing.assert_allclose(found.correlation, np.diag([0, 0, 1]))
    assert found.mean_correlation == 0


def test_many_codes_are_those_of_numpy() -> None:
    codes = (torch.rand(40, 16, generator=torch.Generator().manual_seed(0)) ** 3 * 4096).long()
    found = count(codes, code_bits=12)
    values, counts = np.unique(codes, return_counts=True)
    bits = subtokens_to_bits(codes.flatten(), 12).view(-1, 12).numpy()
    assert found.used == len(values)
    assert found.counts.tolist() == sorted(counts, reverse=True)
    np.testing.assert_allclose(found.correlation, np.corrcoef(bits.T), atol=1e-12)


def test_it_does_not_matter_in_what_batches_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.randint(0, 30, (50, 4), generator=torch.Generator().manual_seed(0))
    whole = count(codes, code_bits=9)
    monkeypatch.setattr(value_counts, "COUNTED_TOGETHER", 16)
    parts = count(codes, code_bits=9, batches=[1, 30, 5, 14])
    assert whole.counts.tolist() == parts.counts.tolist()
    np.testing.assert_allclose(whole.correlation, parts.correlation)


def test_codes_of_64_bits() -> None:
    codes = torch.tensor([[-1, 0, 2**62, -1]])  # -1: all bits are set
    found = count(codes, code_bits=64)
    assert (found.possible, found.counts.tolist()) == (2**64, [2, 1, 1])
    assert found.ones.tolist() == [0.5, 0.75, *[0.5] * 62]
    assert found.mean_correlation > 0.9


def test_a_codebook_has_as_many_codes_as_entries() -> None:
    assert count(torch.tensor([[0, 1, 4, 4]]), code_bits=3, possible=5).utilization == 3 / 5

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from elm_dist.data import marginals
from elm_dist.data.marginals import marginal_bits_per_code_bit
from elm_dist.data.shards import Manifest
from elm_dist.data.writer import ShardWriter

WriteBits = Callable[..., Path]


@pytest.fixture
def write_bits(tmp_path: Path, manifest: Manifest) -> WriteBits:
    """Return a function that writes bits (samples, 2 x 2 x 16) of both splits as shards."""

    def write(train: NDArray[np.bool_], validation: NDArray[np.bool_]) -> Path:
        writer = ShardWriter(tmp_path / "shards", manifest)
        for split, bits in (("train", train), ("validation", validation)):
            writer.write(f"{split}-000000.tar", np.packbits(bits, axis=1), np.zeros(len(bits), np.uint16))
        writer.finish({split: [f"{split}-000000.tar"] for split in ("train", "validation")})
        return tmp_path / "shards"

    return write


def toss(samples: int, probability: NDArray[np.float64] | float, seed: int) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((samples, 64)) < probability


def binary_entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return -p * np.log2(p) - (1 - p) * np.log2(1 - p)


def test_fair_bits_cost_one_bit_each(write_bits: WriteBits) -> None:
    bits = marginal_bits_per_code_bit(write_bits(toss(4000, 0.5, 0), toss(1000, 0.5, 1)))
    assert bits.train == pytest.approx(1.0, abs=1e-3)
    assert bits.validation == pytest.approx(1.0, abs=1e-3)


def test_biased_bits_cost_their_entropy(write_bits: WriteBits) -> None:
    probability = np.linspace(0.02, 0.98, 64)
    bits = marginal_bits_per_code_bit(write_bits(toss(4000, probability, 0), toss(1000, probability, 1)))
    assert bits.train == pytest.approx(binary_entropy(probability).mean(), abs=0.01)
    assert bits.validation == pytest.approx(binary_entropy(probability).mean(), abs=0.01)


def test_each_position_has_marginals_of_its_own(write_bits: WriteBits) -> None:
    """Half of the bits are always set, half never: known in advance at each place, though the mean is a half."""
    constant = np.tile(np.arange(64) % 2 == 0, (4000, 1))
    bits = marginal_bits_per_code_bit(write_bits(constant, constant[:100]))
    assert 0 < bits.train < 0.005
    assert 0 < bits.validation < 0.005


def test_validation_is_measured_with_the_marginals_of_training(write_bits: WriteBits) -> None:
    bits = marginal_bits_per_code_bit(write_bits(toss(4000, 0.9, 0), toss(1000, 0.1, 1)))
    expected = -0.1 * np.log2(0.9) - 0.9 * np.log2(0.1)
    assert bits.validation == pytest.approx(expected, rel=0.03)
    assert bits.validation > bits.train


def test_a_bit_never_seen_in_training_costs_much_but_not_infinitely(write_bits: WriteBits) -> None:
    bits = marginal_bits_per_code_bit(write_bits(np.zeros((99, 64), bool), np.ones((3, 64), bool)))
    assert bits.validation == pytest.approx(-np.log2(0.5 / 100))


def test_the_size_of_the_chunks_does_not_matter(write_bits: WriteBits, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_bits(toss(50, 0.3, 0), toss(20, 0.3, 1))
    whole = marginal_bits_per_code_bit(directory)
    monkeypatch.setattr(marginals, "CHUNK", 7)
    assert marginal_bits_per_code_bit(directory) == whole

"""The best model of the codes that looks at nothing: for each bit of each position, how often it is set.

Its cross-entropy is the bar that a trained model must get below to have learned any structure at all.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from elm_dist.data.payload import bit_probabilities
from elm_dist.data.shards import Manifest, ShardReader, Split, load_manifest

CHUNK = 8192  # samples unpacked at once


class MarginalBits(NamedTuple):
    """Bits per code bit, averaged over all positions and bits; 1.0 = as random as coin tosses."""

    train: float  # entropy of the marginals of the training samples
    validation: float  # cross-entropy of those same marginals on the validation samples


def marginal_bits_per_code_bit(directory: Path) -> MarginalBits:
    """Return how well per-bit frequencies predict the shards; raises ShardError if they cannot be read."""
    manifest = load_manifest(directory)
    (ones, samples), (validation_ones, validation_samples) = (
        _count_ones(directory, manifest, split) for split in ("train", "validation")
    )
    # Half a sample is added to each side, so that a bit never seen set is unlikely, not impossible.
    model = (ones + 0.5) / (samples + 1)
    return MarginalBits(_cross_entropy(model, model), _cross_entropy(validation_ones / validation_samples, model))


def read_in_order(reader: ShardReader) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint16]]]:
    """Yield all stored samples (n, sample_bytes) and labels (n,) in stored order, some at once."""
    for start in range(0, len(reader), CHUNK):
        yield reader.read(np.arange(start, min(start + CHUNK, len(reader))))


def mean_entropy(frequencies: NDArray[np.float64]) -> float:
    """Return the entropy, in bits, of coins of these probabilities, averaged; one that never changes has none."""
    possible = np.clip(frequencies, 1e-12, 1 - 1e-12)
    return _cross_entropy(possible, possible)


def _count_ones(directory: Path, manifest: Manifest, split: Split) -> tuple[NDArray[np.float64], int]:
    """Return how often each bit is set, (positions x code_bits,), and in how many samples."""
    ones = np.zeros(manifest.image_bits)
    for stored, _ in read_in_order(ShardReader(directory, manifest, split)):
        ones += bit_probabilities(stored, manifest).sum(axis=0, dtype=np.float64)
    return ones, manifest.samples(split)


def _cross_entropy(data: NDArray[np.float64], model: NDArray[np.float64]) -> float:
    """Return the mean bits that a model's probabilities of ones need for the data's frequencies of ones."""
    return float(-np.mean(data * np.log2(model) + (1 - data) * np.log2(1 - model)))

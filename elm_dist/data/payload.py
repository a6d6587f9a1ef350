"""What the stored bytes of a sample say: its packed code bits, or the probability of each bit in 255ths.

A tokenizer that draws its bits gives probabilities; stored as such, they are drawn anew in each epoch.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from elm_dist.codes.packing import pack_bits
from elm_dist.data.shards import Manifest
from elm_dist.randomness import derive_seed


def draw_codes(
    stored: NDArray[np.uint8], manifest: Manifest, seed: int, positions: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return packed codes (n, packed_bytes) of samples (n, sample_bytes) that training reads at `positions` (n,).

    Each bit of a probability is a draw of its own, a pure function of (seed, position, which bit).
    """
    if manifest.payload == "bits":
        return stored
    return pack_bits(torch.from_numpy(stored), torch.from_numpy(positions), derive_seed(seed, "code bits")).numpy()


def likeliest_codes(stored: NDArray[np.uint8], manifest: Manifest) -> NDArray[np.uint8]:
    """Return packed codes (n, packed_bytes) of stored samples: the bits whose probability is above a half."""
    return stored if manifest.payload == "bits" else np.packbits(stored > 127, axis=1)


def reorder_codes(packed: NDArray[np.uint8], manifest: Manifest, order: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return packed codes (n, packed_bytes) with the code of cell `order[p]` at position p."""
    if np.array_equal(order, np.arange(len(order))):
        return packed
    bits = np.unpackbits(packed, axis=1, count=manifest.image_bits).reshape(len(packed), len(order), -1)
    return np.packbits(bits[:, order].reshape(len(packed), -1), axis=1)


def bit_probabilities(stored: NDArray[np.uint8], manifest: Manifest) -> NDArray[np.number]:
    """Return the probability of each bit, (n, positions x code_bits), which is 0 or 1 where bits are stored."""
    if manifest.payload == "probabilities":
        return stored / 255
    return np.unpackbits(stored, axis=1, count=manifest.image_bits)

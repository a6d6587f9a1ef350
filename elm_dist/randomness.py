"""Random numbers that belong to the data, not to the process.

Every draw is a pure function of (seed, what it is for, which sample): the same run draws the same numbers on one
process, on a pipeline, and after a resume on another layout. Knows nothing of torch.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


def derive_seed(seed: int, *what: str | int) -> int:
    """Return a 63-bit seed for one purpose, such as ("weights", "blocks.3.attention.qkv.weight")."""
    text = "/".join(map(str, (seed, *what))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(seed: int, *what: str | int) -> np.random.Generator:
    """Return numpy's generator for one purpose."""
    return np.random.Generator(np.random.Philox(derive_seed(seed, *what)))


def uniforms(seed: int, what: str, indices: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return one number in [0, 1) for each index, the same whatever other indices are asked for with it.

    This is splitmix64 read at arbitrary counters (Steele et al., "Fast splittable pseudorandom number generators",
    OOPSLA 2014), so any subset of the samples can be drawn on any process.
    """
    state = np.uint64(derive_seed(seed, what)) + indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53

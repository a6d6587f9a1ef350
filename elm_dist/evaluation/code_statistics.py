"""How a tokenizer uses its codes: which of them occur, how even each bit is, and which bits say the same.

Counted batch by batch on packed codes. Knows nothing of images and nets.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elm_dist.codes.packing import bits_to_subtokens, unpack_bits
from elm_dist.codes.subtokens import CodeShape
from elm_dist.evaluation.value_counts import ValueCounter, ValueCounts


@dataclass(frozen=True)
class CodeStatistics:
    """What `CodeCounter` found; everything on the CPU."""

    codes: int  # positions of all images
    possible: int  # different codes that there can be
    values: ValueCounts  # the codes that occur as whole numbers; of 64 bits those from 2^63 on are negative
    ones: Tensor  # (code_bits,), float64: the share of codes in which each bit is set
    correlation: Tensor  # (code_bits, code_bits), float64: phi coefficients; 0 for a bit that never changes

    @property
    def counts(self) -> Tensor:
        """How often each code that occurs does, the most frequent first, (used,), int64."""
        return self.values.counts.sort(descending=True).values

    @property
    def used(self) -> int:
        return self.values.distinct

    @property
    def utilization(self) -> float:
        """The share of the possible codes that occur."""
        return self.used / self.possible

    @property
    def entropy_bits(self) -> float:
        """Bits that a code says, by the frequencies of the codes; too low while most codes occur a few times only."""
        return self.values.entropy_nats / math.log(2)

    @property
    def perplexity(self) -> float:
        """How many equally frequent codes would say as much."""
        return 2**self.entropy_bits

    @property
    def bit_entropies(self) -> Tensor:
        """Bits that each bit says, (code_bits,) in 0..1."""
        return _entropy_bits(self.ones) + _entropy_bits(1 - self.ones)

    @property
    def mean_correlation(self) -> float:
        """The mean of |phi| over all pairs of different bits; 0 for a single bit."""
        bits = len(self.ones)
        pairs = self.correlation.abs().sum() - self.correlation.diagonal().sum()
        return pairs.item() / max(bits * (bits - 1), 1)


class CodeCounter:
    """Counts codes of `shape` as they come, of which `possible` different ones exist.

    Its memory grows with the codes that differ and with nothing else.
    """

    def __init__(self, shape: CodeShape, possible: int) -> None:
        self._shape, self._possible = shape, possible
        self._together = torch.zeros(shape.code_bits, shape.code_bits, dtype=torch.float64)  # how often both are set
        self._codes = 0
        self._values = ValueCounter()

    def update(self, packed: Tensor) -> None:
        """Count the codes of images (batch, packed_bytes)."""
        bits = unpack_bits(packed, self._shape).flatten(0, 1)
        wide = bits.double()
        self._together += (wide.T @ wide).cpu()
        self._codes += len(bits)
        self._values.update(bits_to_subtokens(bits, self._shape.code_bits))

    def statistics(self) -> CodeStatistics:
        """Return what was found so far; there must be a code."""
        ones = self._together.diagonal() / self._codes
        covariance = self._together / self._codes - torch.outer(ones, ones)
        deviations = (ones * (1 - ones)).sqrt()
        scale = torch.outer(deviations, deviations)
        return CodeStatistics(
            codes=self._codes,
            possible=self._possible,
            values=self._values.counts(),
            ones=ones,
            correlation=torch.where(scale > 0, covariance / scale, 0),
        )


def _entropy_bits(shares: Tensor) -> Tensor:
    """Return -p log2 p of each share, 0 for 0."""
    return torch.special.entr(shares.double()) / math.log(2)

"""How often each of many whole numbers occurs, counted as they come. Knows nothing of what the numbers stand for."""

from typing import NamedTuple

import torch
from torch import Tensor

COUNTED_TOGETHER = 2**20  # values that are kept before they are counted: 8 MB


class ValueCounts(NamedTuple):
    """What `ValueCounter` found; everything on the CPU."""

    values: Tensor  # (distinct,), int64, ascending: those that occur
    counts: Tensor  # (distinct,), int64: how often each does

    @property
    def distinct(self) -> int:
        return len(self.values)

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def entropy_nats(self) -> float:
        """The entropy of the frequencies; of n values it is ln n at most, whatever they were drawn from."""
        shares = self.counts.double() / self.total
        return torch.special.entr(shares).sum().item()

    def of(self, values: Tensor) -> Tensor:
        """Return how often each of some values (n,) occurs, (n,), which is 0 for those that do not."""
        places = torch.searchsorted(self.values, values).clamp(max=self.distinct - 1)
        return torch.where(self.values[places] == values, self.counts[places], 0)

    def merged(self, values: Tensor) -> "ValueCounts":
        """Return the counts of the same values (distinct,), int64, where some were given another number."""
        merged, places = torch.unique(values, return_inverse=True)
        return ValueCounts(merged, torch.zeros_like(merged).index_add_(0, places, self.counts))


class ValueCounter:
    """Counts int64 values. Its memory grows with the values that differ and with nothing else."""

    def __init__(self) -> None:
        nothing = torch.empty(0, dtype=torch.int64)
        self._known = ValueCounts(nothing, nothing)
        self._waiting: list[Tensor] = []

    def update(self, values: Tensor) -> None:
        """Count values of any shape."""
        self._waiting.append(values.flatten().cpu())
        # Not before there is as much again to count: each value is then sorted a few times only.
        if sum(map(len, self._waiting)) >= max(COUNTED_TOGETHER, self._known.distinct):
            self._count()

    def counts(self) -> ValueCounts:
        """Return what was found so far."""
        self._count()
        return self._known

    def _count(self) -> None:
        new = sum(map(len, self._waiting))
        counts = torch.cat([self._known.counts, torch.ones(new, dtype=torch.int64)])
        values = torch.cat([self._known.values, *self._waiting])
        self._known, self._waiting = ValueCounts(values, counts).merged(values), []

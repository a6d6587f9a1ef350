"""Watches a run for numbers that mean it is ill, and says which. Knows nothing of what is then done about it."""

import statistics
from collections import deque

SPIKE_WINDOW = 128  # steps


class SpikeScore:
    """How far a loss lies above those of the last 128 steps, in their standard deviations."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=SPIKE_WINDOW)
        self._highest = 0.0

    def count(self, loss: float) -> None:
        """Note the finite loss of one step. The first 128 have nothing to be compared with."""
        if len(self._losses) == SPIKE_WINDOW:
            spread = statistics.pstdev(self._losses)
            sigma = (loss - statistics.fmean(self._losses)) / spread if spread else 0.0
            self._highest = max(self._highest, sigma)
        self._losses.append(loss)

    def lap(self) -> float:
        """Return the highest score since the last lap, and start anew; 0 where no loss was above the mean."""
        highest, self._highest = self._highest, 0.0
        return highest


class StragglerWatch:
    """Finds ranks that compute slower than others that do the same work.

    Once in each window of steps every rank gives the median time of its own forward passes; whoever is slower than
    `ratio` times its peers in two windows running is a straggler. One window alone can be a disk or a neighbour's job.
    """

    def __init__(self, window: int, ratio: float) -> None:
        self._window, self._ratio = window, ratio
        self._seconds: list[float] = []
        self._suspects: set[int] = set()

    def count(self, seconds: float) -> float | None:
        """Note what this rank computed in one step; return its median at the end of each window."""
        self._seconds.append(seconds)
        if len(self._seconds) < self._window or not self._window:
            return None
        median = statistics.median(self._seconds)
        self._seconds.clear()
        return median

    def judge(self, medians: list[float], peers: list[list[int]]) -> dict[int, float]:
        """Return the stragglers, and how many times as long as their peers they take.

        `medians` are those of all ranks, `peers` the groups of ranks with the same work. A rank is compared with the
        lower median of its group, which stragglers do not move as long as they are no more than half of it.
        """
        slow: dict[int, float] = {}
        for group in peers:
            usual = statistics.median_low([medians[rank] for rank in group])
            slow |= {rank: medians[rank] / usual for rank in group if medians[rank] > self._ratio * usual > 0}
        found = {rank: ratio for rank, ratio in slow.items() if rank in self._suspects}
        self._suspects = set(slow)
        return found

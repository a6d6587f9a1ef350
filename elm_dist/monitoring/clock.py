"""Measures the speed of a run between two reports, without what validation, sampling and saving took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Times steps. `lap` reports on the steps that were counted since the last lap."""

    def __init__(self) -> None:
        self._last = 0.0
        self._restart()

    def count(self, data_seconds: float) -> None:
        """Note one finished step, which waited `data_seconds` for its data."""
        self._steps += 1
        self._data_seconds += data_seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that is spent inside."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._begin += time.perf_counter() - begin

    def lap(self) -> tuple[float, float]:
        """Return seconds per step and the share of them that was spent waiting for data, and start anew."""
        elapsed = time.perf_counter() - self._begin
        wait_share = self._data_seconds / elapsed
        self._last = elapsed / self._steps
        self._restart()
        return self._last, wait_share

    @property
    def step_seconds(self) -> float:
        """Seconds per step so far in this lap, or in the one before where no step of this one is done."""
        return (time.perf_counter() - self._begin) / self._steps if self._steps else self._last

    def _restart(self) -> None:
        self._begin = time.perf_counter()
        self._steps = 0
        self._data_seconds = 0.0

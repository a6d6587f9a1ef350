"""How long a device computes within a stretch of time, and so how long it waits. Knows nothing of what it computes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Adds up what is timed with `running` since the last `reset`.

    A GPU works behind the process that feeds it: its own events mark the time, and `read` waits for the last of them.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self.reset()

    def reset(self) -> None:
        self._stretches: list[tuple[Any, Any]] = []
        self._begin = self._mark()

    @contextmanager
    def running(self) -> Iterator[None]:
        begin = self._mark()
        yield
        self._stretches.append((begin, self._mark()))

    def read(self) -> tuple[float, float]:
        """Return the seconds that were timed, and all seconds since the reset."""
        end = self._mark()
        if self._is_cuda:
            torch.cuda.synchronize()
        return sum(self._seconds(*stretch) for stretch in self._stretches), self._seconds(self._begin, end)

    def _mark(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, begin: Any, end: Any) -> float:
        return begin.elapsed_time(end) / 1000 if self._is_cuda else end - begin

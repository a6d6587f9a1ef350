"""How far a long job is, how fast, and how long it will take: for people who wait. Knows nothing of what is done."""

import logging
import sys
import time

from rich.progress import Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

LOG_SECONDS = 10.0  # between two lines of progress, where there is no terminal to draw a bar on


class Speedometer:
    """Shows how far this process is, its `unit` per second and the time left: one bar, or lines if it is not alone."""

    def __init__(self, work: str, rank: int, world_size: int, unit: str = "images") -> None:
        self._unit = unit
        self._name = f"process {rank + 1} of {world_size}" if world_size > 1 else work
        self._bar = Progress(
            *Progress.get_default_columns()[:-1],
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            transient=True,
            disable=world_size > 1 or not sys.stdout.isatty(),
        )
        self._task = self._bar.add_task(self._name, total=None, speed="")
        self._begin = self._logged = time.monotonic()
        self._first: int | None = None  # samples that were there before this start

    def __enter__(self) -> "Speedometer":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def show(self, done: int, total: int) -> None:
        """Report that `done` of `total` are done; cheap enough to be called for each batch."""
        now = time.monotonic()
        if self._first is None:  # the first call comes before the first batch
            self._begin, self._first = now, done
        rate = (done - self._first) / max(now - self._begin, 1e-9)
        self._bar.update(self._task, completed=done, total=total, speed=f"{rate:,.1f} {self._unit}/s")
        if self._bar.disable and rate and (now - self._logged >= LOG_SECONDS or done == total):
            self._logged = now
            minutes = (total - done) / rate / 60
            speed = f"{rate:,.1f} {self._unit}/s"
            line = f"{self._name}: {done:,} of {total:,} {self._unit}, {speed}, {minutes:,.1f} minutes left"
            log.info(line)

"""Ends a process that makes no progress, and says where it and its peers stand.

A rank whose collective operation never ends, or whose disk does not answer, cannot say so: a thread of its own does. It
looks at this process's own steps alone and costs nothing while they go on, however many ranks there are. Those that
find themselves stuck write where they stand to one folder; who wrote nothing is what the others wait for. Knows nothing
of collectives.
"""

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0  # that ranks may be apart; then who has not reported is named
STDERR = 2  # by its number, for C
PACKAGE = os.sep + "elm_dist" + os.sep


class Watchdog:
    """As a context, ends this process with exit code 1 when it does not `beat` for `seconds`; 0 = it never does.

    It writes the stacks of all threads to directory/rank<rank>.txt first, which the next start renames. `on_hang` is
    given the sentence that says what hangs, by the lowest rank that reports. A process that was stopped ends when it is
    continued.
    """

    def __init__(
        self, directory: Path, rank: int, world_size: int, seconds: float, on_hang: Callable[[str], None]
    ) -> None:
        self._directory, self._rank, self._world_size = directory, rank, world_size
        self._seconds, self._on_hang = seconds, on_hang
        self._step, self._deadline = 0, 0.0
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        if self._seconds:
            report = _file_of(self._directory, self._rank)  # of a hang before this start
            with suppress(FileNotFoundError):
                report.replace(report.with_name(f"previous-{report.name}"))
            self.beat(self._step)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._seconds:
            self._left.set()
            faulthandler.cancel_dump_traceback_later()
            self._thread.join()

    def beat(self, step: int) -> None:
        """Say that this process goes on: it has done `step`, or one of the long things that come between steps."""
        if self._seconds:
            self._step, self._deadline = step, time.monotonic() + self._seconds
            # Where the interpreter is held, or the folder hangs as well, no Python runs: then C ends the process.
            faulthandler.dump_traceback_later(self._seconds + 4 * GRACE_SECONDS, exit=True, file=STDERR)

    def _watch(self) -> None:
        while not self._left.wait(max(self._deadline - time.monotonic(), 0)):
            if time.monotonic() >= self._deadline:
                self._end()

    def _end(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        scratch = self._directory / f".rank{self._rank:05d}.partial"
        with scratch.open("w") as file:
            file.write(f"step {self._step:,} done, stands in {_place()}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        scratch.replace(_file_of(self._directory, self._rank))
        self._left.wait(GRACE_SECONDS)
        if not self._left.is_set():
            reported = [rank for rank in range(self._world_size) if _file_of(self._directory, rank).exists()]
            if reported[0] == self._rank:
                sentence = describe_hang(self._directory, reported, self._world_size, self._seconds)
                log.error("error: %s", sentence)
                self._on_hang(sentence)
            else:
                time.sleep(1)  # a launcher ends all when the first one ends: let that one speak
            sys.stderr.flush()
            os._exit(1)


def describe_hang(directory: Path, reported: Sequence[int], world_size: int, seconds: float) -> str:
    """Return one sentence: who reported nothing, and where those that did stand."""
    places: dict[str, list[int]] = {}
    for rank in reported:
        places.setdefault(_file_of(directory, rank).read_text().partition("\n")[0], []).append(rank)
    silent = [rank for rank in range(world_size) if rank not in set(reported)]
    who = f"rank {_ranges(silent)} did not report: that process or its machine stands still" if silent else ""
    few_first = sorted(places.items(), key=lambda item: len(item[1]))
    found = "; ".join(filter(None, [who, *(f"rank {_ranges(ranks)}: {place}" for place, ranks in few_first)]))
    return (
        f"no progress for {seconds / 60:g} minutes (monitoring.hang_minutes): {found}; the stacks are in {directory}; "
        "started again, the run goes on from its newest checkpoint"
    )


def _file_of(directory: Path, rank: int) -> Path:
    return directory / f"rank{rank:05d}.txt"


def _place() -> str:
    """Return the innermost line of this package that the main thread is in."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame and PACKAGE not in frame.f_code.co_filename and frame.f_back:
        frame = frame.f_back
    if frame is None:
        return "no Python code"
    file = frame.f_code.co_filename.rpartition(PACKAGE)[2]
    return f"{file}:{frame.f_lineno} {frame.f_code.co_name}"


def _ranges(ranks: Sequence[int]) -> str:
    """Return "0, 2-5" for 0, 2, 3, 4, 5."""
    parts: list[list[int]] = []
    for rank in ranks:
        if parts and parts[-1][-1] == rank - 1:
            parts[-1].append(rank)
        else:
            parts.append([rank])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)

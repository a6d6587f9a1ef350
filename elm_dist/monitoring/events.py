"""What happened to a run, in `events.jsonl`: one line each for a start, a save, a sign of life, and how it ended.

Unlike the metrics it is never cut back when a run resumes, so that it shows what was done twice and what failed. A line
that names no step is of the step before it. Knows nothing of what the events mean for the run's speed: goodput.py does.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

EVENTS = "events.jsonl"
MARK_SECONDS = 10.0  # between two signs of life: what is not known of the end of a run that was killed
BEGINS = ("start", "rollback")
ENDS = ("finish", "stop", "fault")


@dataclass(frozen=True)
class Event:
    """One line. Seconds count from the start of its process."""

    kind: str  # progress, save, or one of BEGINS and ENDS
    time: float  # seconds since 1970, by the clock of the main process
    step: int
    save_seconds: float = 0.0  # that saves held the training up
    data_wait_seconds: float = 0.0
    setup_seconds: float = 0.0  # of a start: of building the engine and loading the checkpoint
    reason: str = ""  # of a fault
    exit_code: int = 0
    host: str = ""  # of a start, with the main process's number
    pid: int = 0


class EventLog:
    """Writes the events of one process; without a path it is silent, as on all ranks but one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._begin = self._written = time.monotonic()
        self._save_seconds = self._data_wait_seconds = 0.0
        self.last_save_seconds = 0.0

    def start(self, step: int) -> None:
        """Write that the first step is about to begin."""
        setup = round(time.monotonic() - self._begin, 2)
        self._begin = time.monotonic()
        self.write("start", step, setup_seconds=setup, host=platform.node(), pid=os.getpid())

    def count(self, step: int, data_wait_seconds: float) -> None:
        """Note one finished step; writes a sign of life, if the last line is older than MARK_SECONDS."""
        self._data_wait_seconds += data_wait_seconds
        if time.monotonic() - self._written >= MARK_SECONDS:
            self.write("progress", step)

    @contextmanager
    def saving(self, step: int) -> Iterator[None]:
        """Count the time spent inside as held up by a save, and write that it was begun."""
        begin = time.perf_counter()
        yield
        self.last_save_seconds = time.perf_counter() - begin
        self._save_seconds += self.last_save_seconds
        self.write("save", step)

    def since_start(self) -> tuple[float, float, float]:
        """Return the seconds since `start`, those held up by saves, and those of waiting for data."""
        return time.monotonic() - self._begin, self._save_seconds, self._data_wait_seconds

    def write(self, kind: str, step: int, **facts: float | str) -> None:
        self._written = time.monotonic()
        counted = {"save_seconds": round(self._save_seconds, 3), "data_wait_seconds": round(self._data_wait_seconds, 3)}
        if self._path is not None:
            append_event(self._path, kind, step=step, **counted, **facts)


@contextmanager
def faults_recorded(path: Path | None) -> Iterator[None]:
    """Append a `fault` with its reason when the block fails, if there is a run to say it of."""
    try:
        yield
    except BaseException as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        with suppress(OSError):  # the disk may be what failed
            if path is not None and path.parent.is_dir():
                append_event(path, "fault", reason=reason, exit_code=getattr(error, "exit_code", 1))
        raise


def append_event(path: Path, kind: str, **facts: float | str) -> None:
    """Append one line; a line before it that a crash tore off is ended first."""
    line = json.dumps({"event": kind, "time": round(time.time(), 2), **facts}) + "\n"
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(line.encode())


def read_events(path: Path) -> list[Event]:
    """Return the events of a run in order, without lines that a crash tore off; none where there is no such file."""
    events: list[Event] = []
    carried = {"step": 0, "save_seconds": 0.0, "data_wait_seconds": 0.0}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        with suppress(ValueError, KeyError, TypeError):
            found = json.loads(line)
            kind = found.pop("event")
            events.append(Event(kind, **carried | found))
            carried = {name: getattr(events[-1], name) for name in carried}
    return events

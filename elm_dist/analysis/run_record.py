"""What the folder of a run says about it: configuration, machine, curves, events, data. Reads, and draws nothing.

The run may still be going on, or may have ended in the middle of a line. Loads no weights and needs no torch.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from elm_dist.checkpoint.run_folder import load_run_config
from elm_dist.config import Config
from elm_dist.data.shards import Manifest, load_manifest
from elm_dist.errors import ShardError
from elm_dist.monitoring import metrics as names
from elm_dist.monitoring.events import BEGINS, ENDS, EVENTS, Event, read_events
from elm_dist.monitoring.goodput import Goodput, account

Word = Literal["finished", "stopped", "failed", "running", "silent", "not started"]
ENDED: dict[str, Word] = {"finish": "finished", "stop": "stopped", "fault": "failed"}
PATIENCE_MINUTES = 8  # without a sign of life, where no watchdog has its own

STAGE_MEMORY = re.compile(re.escape(names.MEMORY_GIB) + r"(_stage_\d+)?")


class Curve(NamedTuple):
    """A metric over the steps of a run; finite values alone."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def last(self) -> float:
        return self.values[-1].item()

    @property
    def median(self) -> float:
        """What is usual, whatever the first report and hiccups say."""
        return float(np.median(self.values))


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder has it at the time `read_at`."""

    name: str
    directory: Path
    config: Config
    environment: dict[str, Any]  # of the newest start; empty before the first
    curves: Mapping[str, Curve]  # by the names of metrics
    events: list[Event]
    data: Manifest | None  # None where its shards are not on this machine
    read_at: float  # seconds since 1970

    @property
    def step(self) -> int:
        """The last step that is known of."""
        reported = [int(curve.steps[-1]) for curve in self.curves.values()]
        return max([*reported, *(event.step for event in self.events[-1:])], default=0)

    @property
    def state(self) -> Word:
        if not self.events:
            return "silent" if self.curves else "not started"
        last = self.events[-1]
        minutes = self.config.monitoring.hang_minutes or PATIENCE_MINUTES
        return ENDED.get(last.kind) or ("running" if self.read_at - last.time < 60 * minutes else "silent")

    @property
    def goodput(self) -> Goodput:
        return account(self.events)

    @property
    def breaks(self) -> list[Event]:
        """The last events before each fault: of a process that ended so, or of one that went back."""
        pairs = zip_longest(self.events, self.events[1:])
        return [
            event
            for event, later in pairs
            if event.kind == "fault" or (later is not None and later.kind in BEGINS and event.kind not in ENDS)
        ]

    @property
    def device(self) -> str:
        """Such as "cpu" or "cuda:0"; "" before the first start."""
        return str(self.environment.get("device", ""))

    @property
    def processes(self) -> int:
        """That the newest start had; 0 before the first."""
        found = re.match(r"\d+", str(self.environment.get("layout", "")))
        return int(found.group()) if found else 0

    @property
    def memory_gib(self) -> float | None:
        """The most that any process is known to have used."""
        return max(
            (c.values.max().item() for name, c in self.curves.items() if STAGE_MEMORY.fullmatch(name)), default=None
        )

    def median(self, name: str) -> float | None:
        return self.curves[name].median if name in self.curves else None

    def last(self, name: str) -> float | None:
        return self.curves[name].last if name in self.curves else None


def read_runs(directories: Sequence[Path], now: float) -> list[RunRecord]:
    """Return the record of each run, once where it is given twice; raises CheckpointError for a folder that is none.

    Runs go by the names of their folders, or by their paths where two folders have the same name.
    """
    found = list({directory.resolve(): directory for directory in directories}.values())
    names_of_folders = [directory.resolve().name for directory in found]
    are_unique = len(set(names_of_folders)) == len(found)
    labels = names_of_folders if are_unique else [str(directory) for directory in found]
    return [_read_run(directory, label, now) for directory, label in zip(found, labels, strict=True)]


def _read_run(directory: Path, name: str, now: float) -> RunRecord:
    config = load_run_config(directory)
    return RunRecord(
        name,
        directory,
        config,
        read_facts(directory / "environment.json"),
        read_curves(directory / "metrics.jsonl"),
        read_events(directory / EVENTS),
        _read_manifest(config.data.shards),
        now,
    )


def read_facts(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if there is no such file, or something else in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_curves(path: Path) -> dict[str, Curve]:
    """Return all metrics of a file, without lines that a crash tore off; none where there is no such file."""
    points: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for report in _reports(path):
        for name, value in report.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                points[name].append((report["step"], value))
    return {
        name: Curve(np.array([step for step, _ in found]), np.array([value for _, value in found], dtype=np.float64))
        for name, found in points.items()
    }


def _reports(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            report = json.loads(line)
        except ValueError:
            continue  # of a run that was killed as it wrote
        if isinstance(report, dict) and isinstance(report.get("step"), int):
            yield report


def _read_manifest(shards: Path) -> Manifest | None:
    try:
        return load_manifest(shards)
    except ShardError:
        return None


def settings_that_differ(configs: list[Config]) -> dict[str, list[Any]]:
    """Return the settings, as in "optimizer.learning_rate", that are not the same everywhere, with the value of each.

    Folders of runs are left out: they always differ.
    """
    flat = [
        {
            f"{section}.{key}": value
            for section, keys in config.model_dump(mode="json").items()
            for key, value in keys.items()
        }
        for config in configs
    ]
    found = {name: [settings[name] for settings in flat] for name in flat[0] if name != "run.directory"}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


def duration(seconds: float) -> str:
    """Return as "4 min", "3 h 05 min" or "2 d 04 h"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours:02d} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def moment(seconds: float) -> str:
    """Return a time since 1970 as people write it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")

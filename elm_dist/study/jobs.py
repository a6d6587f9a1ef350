"""Runs jobs side by side, each a process of its own, and keeps a record of each that is done: it is not done again.

Knows nothing of what a job does. A job that was cut off is started again, and its commands go on where they stopped.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from elm_dist.errors import FaultError
from elm_dist.files import replace_text
from elm_dist.study.plan import Job
from elm_dist.training.preemption import on_stop_signal

log = logging.getLogger(__name__)

# Every job has one thread: as many jobs as cores keep them all busy.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::FutureWarning"}
POLL_SECONDS = 0.05
GRACE_SECONDS = 60  # that jobs get to save what they have when the study is stopped


@dataclass(frozen=True)
class Record:
    """What is kept of a job that is done."""

    commands: list[str]
    wall_seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    begin: float


def run_jobs(jobs: Sequence[Job], out: Path, workers: int) -> dict[str, Record]:
    """Run all jobs, `workers` at a time, and return their records by name.

    What a job says goes to `out`/logs. Raises FaultError with the last of it for a job that fails, and for a signal to
    stop, after the jobs that run have been stopped.
    """
    assert {need for job in jobs for need in job.needs} <= {job.name for job in jobs}, "or it would wait for ever"
    records = {job.name: record for job in jobs if (record := _load_record(out, job))}
    waiting = [job for job in jobs if job.name not in records]
    log.info("%d jobs, of which %d are done", len(jobs), len(records))
    running: list[_Running] = []
    try:
        with on_stop_signal() as stop:
            while waiting or running:
                ready = [job for job in waiting if records.keys() >= set(job.needs)]
                for job in ready[: workers - len(running)]:
                    waiting.remove(job)
                    running.append(_start(job, out))
                time.sleep(POLL_SECONDS)
                if stop.is_made:
                    raise FaultError(f"stopped with {len(records)} of {len(jobs)} jobs done; started again, it goes on")
                for one in list(running):
                    if (cpu_seconds := _ended(one, out)) is not None:
                        running.remove(one)
                        records[one.job.name] = _keep_record(one, cpu_seconds, out)
                        log.info("%d/%d %s, %.0f s of CPU time", len(records), len(jobs), one.job.name, cpu_seconds)
    finally:
        _stop(running)
    return records


def _start(job: Job, out: Path) -> _Running:
    path = _log_path(out, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "elm_dist.study.commands", *job.commands],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT,
        )
    return _Running(job, process, time.monotonic())


def _ended(one: _Running, out: Path) -> float | None:
    """Return the CPU time of a job that has ended well, None while it runs."""
    pid, status, usage = os.wait4(one.process.pid, os.WNOHANG)
    if not pid:
        return None
    one.process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it once more
    if one.process.returncode != 0:
        path = _log_path(out, one.job)
        last = path.read_text(errors="replace").splitlines()[-1]
        raise FaultError(
            f"{one.job.name} failed with exit code {one.process.returncode}: {last}; see {path}, mend what it says and "
            "start the study again, which goes on from here"
        )
    return usage.ru_utime + usage.ru_stime


def _stop(running: Sequence[_Running]) -> None:
    """Ask jobs to end, which a training does with a checkpoint; end those that do not."""
    left = [one for one in running if one.process.returncode is None]
    for one in left:
        one.process.terminate()
    for one in left:
        with suppress(subprocess.TimeoutExpired):
            one.process.wait(GRACE_SECONDS)
            continue
        one.process.kill()
        one.process.wait()


def _keep_record(one: _Running, cpu_seconds: float, out: Path) -> Record:
    record = Record(list(one.job.commands), round(time.monotonic() - one.begin, 1), round(cpu_seconds, 1))
    replace_text(_record_path(out, one.job), json.dumps(asdict(record), indent=1) + "\n")
    return record


def _load_record(out: Path, job: Job) -> Record | None:
    """Return the record of a job that is done, None for one that is not, or was with other commands."""
    path = _record_path(out, job)
    if not path.exists():
        return None
    record = Record(**json.loads(path.read_text()))
    return record if record.commands == list(job.commands) else None


def _record_path(out: Path, job: Job) -> Path:
    return out / "done" / f"{job.name}.json"


def _log_path(out: Path, job: Job) -> Path:
    return out / "logs" / f"{job.name}.log"

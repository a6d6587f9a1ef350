"""Runs a training command until its run is finished, and starts it again when it fails.

What starts again goes on from the newest checkpoint, so all that is to be done here is to clear away what the command
left running, wait, and know when it is of no use. Works on one machine, whatever the launcher; on a cluster one of
these runs in the batch script, around `srun`. Knows nothing of how the run is trained: it reads the run's folder.
"""

import ctypes
import logging
import platform
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

from elm_dist.checkpoint.latest import CHECKPOINTS, latest_step
from elm_dist.config_file import load_config
from elm_dist.errors import ConfigError
from elm_dist.monitoring.events import EVENTS, Event, read_events
from elm_dist.monitoring.goodput import account, list_faults

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
LONGEST_WAIT = 600.0  # seconds between two starts
POLL_SECONDS = 5.0
LAUNCHER_SECONDS = 60.0  # that a launcher has to end after a fault; `torchrun` waits 30 for what does not end
LEFTOVER_SECONDS = 15.0  # that processes have to end by themselves when their launcher has
FUTILE = 2  # restarts in a row without a newer checkpoint
WRONG_INPUT = 2
PR_SET_CHILD_SUBREAPER = 36  # prctl of Linux


class Supervisor:
    """Keeps one command running; `run` returns the exit code: 0 finished or stopped on request, 1 failed, 2 refused."""

    def __init__(self, command: Sequence[str], run: Path, restarts: int, backoff: float) -> None:
        self._command, self._run = list(command), run
        self._restarts, self._backoff = restarts, backoff
        self._child: subprocess.Popen[bytes] | None = None
        self._starts = 0  # of the training in its log before this start of the command
        self._is_stopped = False

    def run(self) -> int:
        """Start the command, again after each failure, and log the account of the whole run at the end."""
        # Processes whose launcher dies become our children, not init's: so we find them all.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with self._signals_passed_on():
            code = self._run_until_done()
        events = read_events(self._run / EVENTS)
        for fault in list_faults(events):
            log.info("fault %s", fault)
        log.info("goodput %s", account(events))
        return code

    def _run_until_done(self) -> int:
        failures = 0  # in a row, without a newer checkpoint between them
        while True:
            before = latest_step(self._run / CHECKPOINTS)
            code, end = self._run_once()
            if end in ("stop", "finish"):  # whatever the launcher's code: many fail when they are stopped
                return 0
            if self._is_stopped:
                log.error("error: %s was told to stop and did not save; see its log", self._run)
                return 1
            if code == WRONG_INPUT or end == "refused":
                log.error("error: the command was refused (exit code 2): another start would be, too; see above why")
                return WRONG_INPUT
            step = latest_step(self._run / CHECKPOINTS)
            has_progressed = step is not None and (before is None or step > before)
            failures = 1 if has_progressed else failures + 1
            if not self._may_restart(code, step, futile=failures - 1):
                return 1
            self._wait(min(self._backoff * 2 ** (failures - 1), LONGEST_WAIT), code, step)
            if self._is_stopped:
                return 0
            self._restarts -= 1

    def _may_restart(self, code: int, step: int | None, futile: int) -> bool:
        """Say why not, if not."""
        at = "the beginning" if step is None else f"step {step:,}"
        if futile >= FUTILE:
            log.error(
                "error: %d restarts in a row from %s made no newer checkpoint: another would not either; see in the "
                "log of the run what ends it (exit code %d)",
                *(futile, at, code),
            )
        elif self._restarts <= 0:
            log.error(
                "error: the command failed (exit code %d) at %s, and no restart is left; see --restarts", code, at
            )
        return futile < FUTILE and self._restarts > 0

    def _run_once(self) -> tuple[int, str]:
        """Run the command to its end; return its exit code, and how the training says that it ended."""
        before = read_events(self._run / EVENTS)
        self._starts = sum(event.kind == "start" for event in before)
        log.info("starting %s", " ".join(self._command))
        # A group of its own: what a terminal sends to ours reaches the training through us alone.
        try:
            self._child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, process_group=0)
        except OSError as error:
            raise ConfigError(f"`{self._command[0]}` cannot be started ({error.strerror}); name a command") from None
        code = self._wait_for_the_end(self._child, len(before))
        _end_leftovers()
        return code, _how_it_ended(code, before, read_events(self._run / EVENTS))

    def _wait_for_the_end(self, child: subprocess.Popen[bytes], seen: int) -> int:
        """Return the launcher's exit code; one that outlives a fault, as with a frozen rank, is ended."""
        deadline = float("inf")
        while time.monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(POLL_SECONDS)
            if deadline == float("inf") and any(e.kind == "fault" for e in read_events(self._run / EVENTS)[seen:]):
                deadline = time.monotonic() + LAUNCHER_SECONDS
        child.kill()
        return child.wait()

    def _wait(self, seconds: float, code: int, step: int | None) -> None:
        log.warning(
            "the command failed (exit code %d); it starts again in %.0f s from %s, %d restarts left",
            *(code, seconds, "the beginning" if step is None else f"step {step:,}", self._restarts),
        )
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._is_stopped:
            time.sleep(min(0.2, seconds))

    @contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._pass_on) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Tell the training to save and stop.

        Launchers die of a signal and leave their processes behind, or kill them: one rank is told, which is enough. If
        it is not on this machine, the launcher is `srun` or another one that passes signals on.
        """
        self._is_stopped = True
        if self._child is None or self._child.poll() is not None:
            return
        starts = [event for event in read_events(self._run / EVENTS) if event.kind == "start"]
        main = starts[-1] if len(starts) > self._starts else None
        ours = {process.pid for process in psutil.Process().children(recursive=True)}
        is_ours = main is not None and main.host == platform.node() and main.pid in ours
        target = main.pid if main is not None and is_ours else self._child.pid
        with suppress(psutil.NoSuchProcess):
            psutil.Process(target).send_signal(number)


def _how_it_ended(code: int, before: Sequence[Event], after: Sequence[Event]) -> str:
    """Return "stop", "finish", "refused", or "" where it failed; some launchers return 0 when they were killed."""
    if len(after) > len(before):
        return "refused" if after[-1].exit_code == WRONG_INPUT else after[-1].kind
    was_done = not after or after[-1].kind == "finish"
    return "finish" if code == 0 and was_done else ""


def _end_leftovers() -> None:
    """Leave no process of the command running, frozen ones included: they would hold the GPUs and write to the run."""
    left = psutil.Process().children(recursive=True)
    deadline = time.monotonic() + LEFTOVER_SECONDS
    while left:
        is_late = time.monotonic() > deadline
        for process in left:
            with suppress(psutil.NoSuchProcess):
                if is_late or process.status() == psutil.STATUS_STOPPED:
                    log.warning("process %d outlived its launcher and is killed", process.pid)
                    process.kill()
        _, left = psutil.wait_procs(left, timeout=1)


def find_run(command: Sequence[str]) -> Path:
    """Return the run.directory of a training command: of the file after `--config` or `elm train`, with its overrides.

    Raises ConfigError where the command names no configuration.
    """
    words = [word for part in command for word in (part.split("=", 1) if part.startswith("--config=") else [part])]
    for place, word in enumerate(words[:-1]):
        is_elm_train = word == "train" and place > 0 and Path(words[place - 1]).name in ("elm", "elm_dist")
        if word == "--config" or is_elm_train:
            overrides = [word for word in words[place + 2 :] if "=" in word and not word.startswith("-")]
            return load_config(words[place + 1], overrides).run.directory
    raise ConfigError(
        f"`{' '.join(command)}` names no configuration (--config FILE, or elm train FILE), so its run is not known; "
        "say where that is with --run DIRECTORY"
    )

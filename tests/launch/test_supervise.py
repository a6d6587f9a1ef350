"""Real processes that crash, freeze and are told to stop; all at once, as each start of `elm` takes seconds."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import training_stand_in
from trained_run import TINY

from elm_dist.errors import ConfigError
from elm_dist.launch.supervise import find_run
from elm_dist.monitoring.events import EVENTS, read_events

SUPERVISE = [sys.executable, "-m", "elm_dist", "supervise"]
STAND_IN = str(Path(training_stand_in.__file__))
# The plan of each case, and the options of `elm supervise`.
CASES: dict[str, tuple[str, list[str]]] = {
    "crashes": ("5:crash 0:crash 3:crash 2:finish", []),
    "refused": ("1:crash 1:refused", []),
    "futile": ("4:crash 0:crash", []),
    "budget": ("1:crash", ["--restarts", "1"]),
    "frozen": ("1:frozen 1:finish", []),
    "killed": ("1:killed 1:finish", []),
    "told": ("2:told", []),
}
# A launcher that dies of the signal that it is sent, as `deepspeed` does, and leaves its process alone.
LAUNCHER = ["sh", "-c", 'trap "exit 143" USR1; "$@" & wait', "launcher"]


class Outcome(NamedTuple):
    code: int
    said: str
    starts: int
    run: Path


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("supervised")
    processes = {}
    for name, (plan, options) in CASES.items():
        run = folder / name
        run.mkdir()
        training = [sys.executable, STAND_IN, str(run), plan]
        command = [*LAUNCHER, *training] if name == "told" else training
        processes[name] = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "elm_dist",
                "supervise",
                "--run",
                str(run),
                "--backoff",
                "0.01",
                *options,
                "--",
                *command,
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
    wait_for_start(folder / "told")
    processes["told"].send_signal(signal.SIGUSR1)
    found = {}
    for name, process in processes.items():
        said = process.communicate(timeout=100)[1]
        starts = sum(event.kind == "start" for event in read_events(folder / name / EVENTS))
        found[name] = Outcome(process.returncode, said, starts, folder / name)
    return found


def wait_for_start(run: Path) -> None:
    deadline = time.monotonic() + 60
    while not any(event.kind == "save" and event.step == 2 for event in read_events(run / EVENTS)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_training_that_crashes_is_started_until_it_is_finished(outcomes: dict[str, Outcome]) -> None:
    code, said, starts, run = outcomes["crashes"]
    assert code == 0, said
    assert starts == 4
    assert (run / "checkpoints" / "latest").read_text() == "step_00000010"
    assert "the command failed (exit code 1); it starts again in 0 s from step 5, 10 restarts left" in said
    assert "after step 8: ended without a word" in said
    assert "% of 0.00 h useful; lost to restarts " in said.splitlines()[-1]
    assert "4 starts, 3 faults, one every " in said.splitlines()[-1]


def test_wrong_input_is_not_tried_again(outcomes: dict[str, Outcome]) -> None:
    code, said, starts, _ = outcomes["refused"]
    assert (code, starts) == (2, 2)
    assert "error: the command was refused (exit code 2): another start would be, too" in said


def test_restarts_without_progress_are_given_up(outcomes: dict[str, Outcome]) -> None:
    code, said, starts, _ = outcomes["futile"]
    assert (code, starts) == (1, 3)
    assert "error: 2 restarts in a row from step 4 made no newer checkpoint: another would not either" in said


def test_the_budget_of_restarts_is_kept(outcomes: dict[str, Outcome]) -> None:
    code, said, starts, _ = outcomes["budget"]
    assert (code, starts) == (1, 2)
    assert "error: the command failed (exit code 1) at step 2, and no restart is left; see --restarts" in said


def test_what_a_launcher_leaves_behind_is_killed_before_the_next_start(outcomes: dict[str, Outcome]) -> None:
    """A frozen process in a session of its own, as `torchrun` gives its processes."""
    code, said, starts, run = outcomes["frozen"]
    assert (code, starts) == (0, 2)
    frozen = int((run / "frozen").read_text())
    assert f"process {frozen} outlived its launcher and is killed" in said
    assert not psutil.pid_exists(frozen)


def test_exit_code_0_is_not_believed_without_the_training_s_own_word(outcomes: dict[str, Outcome]) -> None:
    code, said, starts, _ = outcomes["killed"]
    assert (code, starts) == (0, 2), said


def test_a_signal_reaches_the_training_and_not_the_launcher_that_would_die_of_it(outcomes: dict[str, Outcome]) -> None:
    code, said, starts, run = outcomes["told"]
    assert (code, starts) == (0, 1), said
    assert read_events(run / EVENTS)[-1].kind == "stop"


@pytest.mark.parametrize(
    "command",
    [
        ["deepspeed", "--num_gpus", "2", "elm_dist/train.py", "--config", str(TINY), "run.directory=there"],
        ["torchrun", "elm_dist/train.py", f"--config={TINY}", "run.seed=2", "run.directory=there", "--local_rank=0"],
        ["elm", "train", str(TINY), "run.directory=there"],
        ["python", "-m", "elm_dist", "train", str(TINY), "run.directory=there"],
    ],
)
def test_the_run_is_found_in_the_command(command: list[str]) -> None:
    assert find_run(command) == Path("there")


def test_a_command_without_a_configuration_needs_the_run() -> None:
    with pytest.raises(ConfigError, match=r"`bash train\.sh` names no configuration .*; say where that is with --run"):
        find_run(["bash", "train.sh"])


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    command = [*SUPERVISE, "--run", str(tmp_path), "--", "no-such-launcher"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "error: `no-such-launcher` cannot be started (No such file or directory)" in result.stderr

"""Faults that are put into real runs: each ends in one clear sentence, the right exit code, and a run that goes on.

Two ranks of the tiny run, started by a launcher that waits for the first of them to end, as all launchers do.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from processes import processes_of
from trained_run import TINY, TRAIN, folders, tokenize_tiles

from elm_dist.checkpoint.latest import CHECKPOINTS, latest_step
from elm_dist.checkpoint.store import newest_good
from elm_dist.monitoring.events import EVENTS, Event, read_events
from elm_dist.monitoring.goodput import account
from elm_dist.parallel.environment import free_port

SETTINGS = [
    *("schedule.warmup_steps=0", "monitoring.sample_every=0", "monitoring.validation_every=0"),
    *("monitoring.tensorboard=false", "checkpoint.keep_last=2", "monitoring.log_every=20"),
]
FOR_EVER = "schedule.total_steps=1000000"
LAUNCHER = ["bash", "-c", 'for rank in 0 1; do RANK=$rank LOCAL_RANK=$rank "$@" & done; wait -n', "launcher"]
SUPERVISE = [sys.executable, "-m", "elm_dist", "supervise", "--backoff", "0.1", "--"]


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenize_tiles(tmp_path_factory.mktemp("faulty"))


def arguments(tokenized: Path, run: Path, *overrides: str) -> list[str]:
    return [str(TRAIN), "--config", str(TINY), *folders(tokenized, run), *SETTINGS, *overrides]


def launch(prefix: list[str], tokenized: Path, run: Path, *overrides: str) -> "subprocess.Popen[str]":
    """Start two ranks of a run under the launcher."""
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "DS_ACCELERATOR": "cpu"}
    command = [*prefix, *LAUNCHER, sys.executable, *arguments(tokenized, run, *overrides)]
    return subprocess.Popen(command, env=os.environ | world, stderr=subprocess.PIPE, text=True)


def rank_of(parent: "subprocess.Popen[str]", rank: int) -> psutil.Process:
    """Return the process of a rank that is training."""
    for process in psutil.Process(parent.pid).children(recursive=True):
        with suppress(psutil.Error):  # one that has just ended
            if "bash" not in process.name() and process.environ().get("RANK") == str(rank):
                return process
    raise AssertionError(f"rank {rank} is not running")


def wait_for(run: Path, kind: str, step: int = 0, starts: int = 1, seconds: float = 90) -> None:
    """Wait until the run reports an event of some kind at a step, after so many starts."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        events = read_events(run / EVENTS)
        begins = [index for index, event in enumerate(events) if event.kind == "start"]
        since: list[Event] = events[begins[starts - 1] :] if len(begins) >= starts else []
        if any(event.kind == kind and event.step >= step for event in since):
            return
        time.sleep(0.02)
    raise AssertionError(f"no {kind} of step {step} after {starts} starts: {read_events(run / EVENTS)}")


def read_sums(run: Path, step: int) -> dict[str, str]:
    manifest = json.loads((run / CHECKPOINTS / f"step_{step:08d}" / "manifest.json").read_text())
    return {file: entry["sha256"] for file, entry in manifest["files"].items()}


def test_a_supervised_run_with_a_killed_and_a_frozen_rank_ends_like_an_undisturbed_one(
    tokenized: Path, tmp_path: Path
) -> None:
    """Rank 1 is killed with signal 9; started again, it is stopped, and rank 0 finds out that it hangs."""
    overrides = ["schedule.total_steps=150", "checkpoint.every=5", "monitoring.hang_minutes=0.1"]
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    supervised = launch(SUPERVISE, tokenized, run, *overrides)
    wait_for(run, "save", step=10)
    rank_of(supervised, 1).kill()
    wait_for(run, "save", step=25, starts=2)
    rank_of(supervised, 1).send_signal(signal.SIGSTOP)
    plain = launch([], tokenized, undisturbed, *overrides)  # meanwhile
    said = supervised.communicate(timeout=120)[1]
    assert supervised.returncode == 0, said
    assert "error: rank 0 lost another process, or waited for it" in said, said
    assert "rank 1 did not report: that process or its machine stands still; rank 0: step " in said
    stacks = (run / "logs" / "hang" / "previous-rank00000.txt").read_text()
    assert "trainer.py" in stacks
    result = account(read_events(run / EVENTS))
    assert (result.starts, result.faults) == (3, 2)
    assert result.replay > 1
    assert 0 < result.percent < 90
    assert "3 starts, 2 faults" in said.splitlines()[-1]

    said = plain.communicate(timeout=120)[1]
    assert plain.returncode == 0, said
    assert read_sums(run, 150) == read_sums(undisturbed, 150)


@pytest.mark.slow
def test_a_run_that_crashes_every_ten_seconds_finishes_unattended(tokenized: Path, tmp_path: Path) -> None:
    """One rank or the other is killed after about ten seconds of training, by seeded chance."""
    overrides = ["schedule.total_steps=200", "checkpoint.every=auto", "checkpoint.mtbf_hours=0.0014"]
    overrides += ["schedule.global_batch_size=64"]  # a step takes a while
    run, undisturbed, chance = tmp_path / "run", tmp_path / "undisturbed", random.Random(5)
    supervised = launch([*SUPERVISE[:-1], "--restarts", "50", "--"], tokenized, run, *overrides)
    log, crashes = read_in_background(supervised), 0
    while supervised.poll() is None:
        wait_for_start_or_end(run, crashes + 1, supervised)
        pause = time.monotonic() + chance.uniform(6, 14)
        while time.monotonic() < pause and supervised.poll() is None:
            time.sleep(0.1)
        if supervised.poll() is None and read_events(run / EVENTS)[-1].kind != "finish":
            rank_of(supervised, chance.randrange(2)).kill()
            crashes += 1
    assert supervised.returncode == 0, log
    assert crashes >= 2
    result = account(read_events(run / EVENTS))
    print(f"{crashes} crashes: {result}")
    assert result.starts == crashes + 1
    plain = launch([], tokenized, undisturbed, *overrides)
    said = plain.communicate(timeout=400)[1]
    assert plain.returncode == 0, said
    assert read_sums(run, 200) == read_sums(undisturbed, 200)


def read_in_background(process: "subprocess.Popen[str]") -> list[str]:
    """Return a list that fills with what the process says: nobody may be kept from speaking."""
    lines: list[str] = []
    assert process.stderr is not None
    threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True).start()
    return lines


def wait_for_start_or_end(run: Path, starts: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and sum(event.kind == "start" for event in read_events(run / EVENTS)) < starts:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_signals_to_one_rank_again_and_again_stop_all_at_one_step(tokenized: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with processes_of(2, arguments(tokenized, run, FOR_EVER, "checkpoint.every=0")) as (main, other):
        wait_for(run, "start")
        time.sleep(0.5)
        kinds = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT]
        while other.poll() is None:
            other.send_signal(kinds[0])
            kinds = kinds[1:] + kinds[:1]
            time.sleep(0.01)
        said = main.communicate(timeout=60)[0]
        assert (main.returncode, other.returncode) == (0, 0), said
    last = read_events(run / EVENTS)[-1]
    assert last.kind == "stop"
    newest = newest_good(run / CHECKPOINTS)
    assert newest is not None
    assert newest.step == last.step


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
def test_a_signal_to_one_rank_of_a_launcher_ends_in_its_exit_code_0(
    launcher: str, tokenized: Path, tmp_path: Path
) -> None:
    run, binary = tmp_path / "run", str(Path(sys.executable).parent / launcher)
    count = ["--num_gpus", "2"] if launcher == "deepspeed" else ["--nproc_per_node", "2"]
    command = [binary, *count, "--master_port", str(free_port()), *arguments(tokenized, run, FOR_EVER)]
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(run, "start")
    rank_of(process, 1).send_signal(signal.SIGUSR2)
    said = process.communicate(timeout=100)[0]
    assert process.returncode == 0, said
    last = read_events(run / EVENTS)[-1]
    assert (last.kind, last.step) == ("stop", latest_step(run / CHECKPOINTS))


def test_a_rank_that_is_out_of_memory_says_so_and_the_other_does_not_hang(tokenized: Path, tmp_path: Path) -> None:
    """It may not have more than it has while it trains, and then is to draw four thousand images."""
    run = tmp_path / "run"
    draws = ["monitoring.sample_every=60", f"monitoring.sample_classes={[0] * 4000}".replace(" ", "")]
    overrides = [FOR_EVER, "checkpoint.every=2", "checkpoint.asynchronous=false", *draws]
    with processes_of(2, arguments(tokenized, run, *overrides)) as (main, other):
        wait_for(run, "save", step=2)
        limit = psutil.Process(other.pid).memory_info().vms + 2**20
        resource.prlimit(other.pid, resource.RLIMIT_AS, (limit, limit))
        said = [process.communicate(timeout=60)[0] for process in (main, other)]
        assert (main.returncode, other.returncode) == (1, 1), said
    assert "error: rank 1 is out of memory; set a smaller schedule.micro_batch_size" in said[1]
    assert "error: rank 0 " in said[0]
    assert newest_good(run / CHECKPOINTS) is not None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB, where the system lets us mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def train_alone(tokenized: Path, run: Path, *overrides: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *arguments(tokenized, run, *overrides)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_a_full_disk_and_one_that_cannot_be_written(tokenized: Path, small_disk: Path) -> None:
    run = small_disk / "run"
    full = train_alone(tokenized, run, "checkpoint.keep_last=100", "checkpoint.every=2", "schedule.total_steps=100")
    assert full.returncode == 1, full.stderr
    errors = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    assert "make room" in errors[0]
    assert "Traceback" not in full.stderr
    step = latest_step(run / CHECKPOINTS)
    assert step is not None
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = train_alone(tokenized, run, "schedule.total_steps=100")
    assert refused.returncode == 1, refused.stderr
    assert "Read-only file system); make room, mend its permissions, or set run.directory" in refused.stderr
    assert "Traceback" not in refused.stderr
    subprocess.run(["mount", "-o", "remount,rw,size=16m", str(small_disk)], check=True)
    went_on = train_alone(tokenized, run, f"schedule.total_steps={step + 1}")
    assert went_on.returncode == 0, went_on.stderr
    assert f"resuming {run} at step {step}:" in went_on.stderr

"""A real training that is cut off, goes on, and is not done again; and a job that fails."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trained_run import TINY, folders

from elm_dist.errors import FaultError
from elm_dist.study.jobs import run_jobs
from elm_dist.study.plan import Job, command

STEPS = 150


def steps_logged(run: Path) -> list[int]:
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
    return [found["step"] for line in lines if "train/loss" in (found := json.loads(line))]


def test_a_job_that_was_cut_off_goes_on_and_one_that_is_done_is_left_alone(tokenized: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [f"schedule.total_steps={STEPS}", "checkpoint.every=0", "monitoring.sample_every=0"]
    job = Job("train/tiny", (command("train", TINY, *folders(tokenized, run), *settings),))
    code = (
        "from pathlib import Path; from elm_dist.study.jobs import run_jobs; from elm_dist.study.plan import Job; "
        f"run_jobs([Job({job.name!r}, {job.commands!r})], Path({str(tmp_path)!r}), 1)"
    )
    study = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not steps_logged(run) and time.monotonic() < deadline:
        time.sleep(0.05)
    study.send_signal(signal.SIGINT)  # as Ctrl-C does
    assert study.wait(60) != 0
    first = steps_logged(run)
    assert 0 < len(first) < STEPS
    assert not (tmp_path / "done").exists()

    records = run_jobs([job], tmp_path, 1)
    assert steps_logged(run) == list(range(1, STEPS + 1)), "it went on from its checkpoint"
    assert records["train/tiny"].cpu_seconds > 0

    log = (tmp_path / "logs/train/tiny.log").read_text()
    assert log.count("$ elm train") == 2
    assert run_jobs([job], tmp_path, 1) == records
    assert (tmp_path / "logs/train/tiny.log").read_text() == log, "it was not started again"


def test_a_job_that_fails_ends_the_study_with_what_it_said(tmp_path: Path) -> None:
    good = Job("check/good", (f"check {TINY}",))
    bad = Job("check/bad", (f"check {tmp_path}/none.yaml", f"check {TINY}"), ("check/good",))
    never = Job("check/never", (f"check {TINY}",), ("check/bad",))
    with pytest.raises(FaultError, match=r"check/bad failed with exit code 2: error: .*no such configuration.*go"):
        run_jobs([good, bad, never], tmp_path, 2)
    assert [path.stem for path in sorted((tmp_path / "done/check").iterdir())] == ["good"]


def test_a_job_of_other_commands_is_done_again(tmp_path: Path) -> None:
    run_jobs([Job("check/one", (f"check {TINY}",))], tmp_path, 1)
    run_jobs([Job("check/one", (f"check {TINY}", f"check {TINY}"))], tmp_path, 1)
    assert (tmp_path / "logs/check/one.log").read_text().count("$ elm check") == 3

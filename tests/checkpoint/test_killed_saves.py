"""Processes killed at any moment of a save: what has a name is whole, and no checkpoint mixes steps."""

import os
import subprocess
import sys
import time
from pathlib import Path

import killed_saves
import pytest
from one_process import OneProcess

from elm_dist.checkpoint.latest import latest_step
from elm_dist.checkpoint.store import CheckpointStore, newest_good
from elm_dist.config import CheckpointConfig


@pytest.mark.parametrize("trials", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_processes_that_are_killed_at_random_moments(trials: int, tmp_path: Path) -> None:
    command = [sys.executable, killed_saves.__file__, str(tmp_path), str(trials), "7"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{trials} trials, ")


def test_no_clock_decides_which_checkpoint_is_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, CheckpointConfig(keep_last=5))
    for step in (1, 2, 3):
        store.save(OneProcess(), step, {})
    store.wait()
    for day, path in enumerate([tmp_path / "latest", *sorted(tmp_path.glob("step_*"), reverse=True)]):
        then = time.time() + 86_400 * (day - 2)  # the older the checkpoint, the later its time, some in the future
        for file in [path, *path.glob("*")]:
            os.utime(file, (then, then))
    newest = newest_good(tmp_path)
    assert newest is not None
    assert newest.step == 3
    assert latest_step(tmp_path) == 3
    store.save(OneProcess(), 4, {})
    store.wait()
    assert latest_step(tmp_path) == 4

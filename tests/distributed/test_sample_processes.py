"""Any number of processes, killed and started again as any other number, leave the files of one undisturbed process."""

import signal
import time
from pathlib import Path

import pytest
from processes import processes_of

from elm_dist.config_file import load_config
from elm_dist.errors import CheckpointError
from elm_dist.sampling.job import DrawingJob
from elm_dist.sampling.requests import list_batches, list_requests
from elm_dist.sampling.run import sample_run
from elm_dist.sampling.settings import claim_folder

BATCH_SIZE = 3
OPTIONS = {"per_class": 5, "npz": True}  # of 4 classes: 20 images in 7 batches

DYING = """
import os, signal
from pathlib import Path
import torch
from elm_dist.sampling.job import DrawingJob
from elm_dist.sampling.run import Sampler, sample_run

torch.set_num_threads(1)
write, written = Sampler._write, []

def write_or_die(self, batch, codes):
    if os.environ["RANK"] == "1" and written:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, batch, codes)
    written.append(batch)

Sampler._write = write_or_die
sample_run(DrawingJob(Path({run!r}), Path({out!r}), batch_size={batch_size}), **{options!r})
"""


@pytest.fixture
def run(trained: Path) -> Path:
    return trained


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_killed_processes_are_replaced_by_another_number_of_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes the second dies after its first batch, and the first, which waits for it, after that."""
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    sample_run(DrawingJob(run, undisturbed, batch_size=BATCH_SIZE), **OPTIONS)
    batches = list_batches(list_requests([0, 1, 2, 3], 5), 3)
    finished = {request.path for index in (0, 2, 4, 6, 1) for request in batches[index]}
    left = start_two_and_kill_them(run, out, finished)
    assert left.keys() == finished
    assert not (out / "grid.png").exists()

    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for rank in (2, 1, 0):  # the main process last, as it waits for the others
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 3, "MASTER_PORT": 1}.items():
            monkeypatch.setenv(name, str(value))
        drawn = sample_run(DrawingJob(run, out, batch_size=BATCH_SIZE), **OPTIONS)
        assert drawn == (out / "grid.png" if rank == 0 else None)
    assert contents(out) == contents(undisturbed)
    assert all((out / path).stat().st_mtime_ns == written for path, written in left.items())


def start_two_and_kill_them(run: Path, out: Path, finished: set[Path]) -> dict[Path, int]:
    """Return the images that are left, and when they were written."""
    code = DYING.format(run=str(run), out=str(out), batch_size=BATCH_SIZE, options=OPTIONS)
    with processes_of(2, ["-c", code]) as (first, second):
        said, _ = second.communicate(timeout=120)
        assert second.returncode == -signal.SIGKILL, said
        deadline = time.monotonic() + 60
        while not all((out / path).exists() for path in finished) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        assert first.poll() is None, first.communicate()
    return {path.relative_to(out): path.stat().st_mtime_ns for path in out.glob("class_*/*.png")}


def test_a_main_process_that_never_comes_is_reported(run: Path, tmp_path: Path) -> None:
    config = load_config(run / "config.yaml", ["parallel.timeout_minutes=0.005"])
    with pytest.raises(CheckpointError, match=r"sampling\.json did not come within 0\.005 minutes from the main pro"):
        claim_folder(tmp_path / "out", run, config, step=None, is_main=False)

"""Saving behind the training, on several ranks and with everything that may go wrong there."""

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import one_process
import pytest
import torch
from one_process import OneProcess, Tensors
from safetensors.torch import load_file

from elm_dist.checkpoint.store import Checkpoint, CheckpointStore, newest_good
from elm_dist.config import CheckpointConfig
from elm_dist.errors import CheckpointError, TrainingError

NAMES = [f"layer_{index}.weight" for index in range(6)]
CANNOT = r"the checkpoint of step 2 cannot be written \(.*\); make room or set run\.directory to another disk"


def save_on_ranks(directory: Path, count: int, step: int = 1, patience: float = 20) -> list[OneProcess]:
    """Save what `count` replicas hold alike, each on a thread of its own; return them."""
    meeting = threading.Barrier(count)
    ranks = [OneProcess(Tensors(names=NAMES), rank, count, meeting.wait) for rank in range(count)]

    def save(rank: OneProcess) -> None:
        store = CheckpointStore(directory, CheckpointConfig(), patience)
        store.save(rank, step, {})
        store.wait()

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(save, ranks))
    return ranks


def test_what_changes_after_a_save_is_not_saved(tmp_path: Path) -> None:
    process, store = OneProcess(Tensors(rows=10_000)), CheckpointStore(tmp_path, CheckpointConfig())
    expected = process.state.values["ema", "b.weight"].clone()
    store.save(process, 1, {})
    process.state.values["ema", "b.weight"].zero_()  # as the next step would
    store.wait()
    assert torch.equal(Checkpoint(tmp_path / "step_00000001").read("ema", "b.weight", expected.shape), expected)


def test_the_next_save_waits_for_the_one_before(tmp_path: Path) -> None:
    """It fills the same memory."""
    process, store = OneProcess(Tensors(rows=100_000)), CheckpointStore(tmp_path, CheckpointConfig(keep_last=5))
    weight = process.state.values["weights", "a.weight"]
    for step in range(1, 6):
        weight.fill_(step)
        store.save(process, step, {})
    store.wait()
    for step in range(1, 6):
        checkpoint = Checkpoint(tmp_path / f"step_{step:08d}")
        checkpoint.verify(checkpoint.files)
        assert (checkpoint.read("weights", "a.weight", weight.shape) == step).all()


def test_a_synchronous_save_is_there_when_it_returns(tmp_path: Path) -> None:
    CheckpointStore(tmp_path, CheckpointConfig(asynchronous=False)).save(OneProcess(), 1, {})
    assert (tmp_path / "latest").read_text() == "step_00000001"


def test_replicas_write_in_turns_and_together_the_whole(tmp_path: Path) -> None:
    ranks = save_on_ranks(tmp_path, 3)
    folder = tmp_path / "step_00000001"
    for rank in range(3):
        assert list(load_file(folder / f"weights-{rank:05d}.safetensors")) == [NAMES[rank], NAMES[rank + 3]]
    checkpoint = Checkpoint(folder)
    assert list(checkpoint.shapes) == NAMES
    for (kind, name), value in ranks[0].state.values.items():
        assert torch.equal(checkpoint.read(kind, name, value.shape), value)
    assert not list(folder.glob("rank-*"))


def test_nothing_is_seen_before_every_rank_has_written(tmp_path: Path) -> None:
    meeting = threading.Barrier(2)
    ranks = [OneProcess(Tensors(names=NAMES), rank, 2, meeting.wait) for rank in range(2)]
    main, other = (CheckpointStore(tmp_path, CheckpointConfig(keep_last=1)) for _ in ranks)
    save_on_ranks(tmp_path, 2, step=1)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(main.save, ranks[0], 2, {})
        meeting.wait()  # the other rank is there, and has not written yet
        waiting.result()
        time.sleep(0.3)
        assert (tmp_path / "latest").read_text() == "step_00000001"
        assert {path.name for path in tmp_path.glob("step_*")} == {"step_00000001"}  # kept until there is another
        ranks[1].meet = lambda: None
        other.save(ranks[1], 2, {})
        main.wait()
    other.wait()
    assert {path.name for path in tmp_path.glob("step_*")} == {"step_00000002"}


def test_ranks_that_do_not_come_are_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, CheckpointConfig(), patience=0.3)
    store.save(OneProcess(world_size=4), 2, {})
    with pytest.raises(CheckpointError, match=r"the files of rank 1, 2, 3 did not come within 0\.3 seconds.* share"):
        store.wait()
    assert not list(tmp_path.glob("step_*"))


def break_folder(directory: Path, step: int) -> None:
    """Put a file where the folder of the step is to be written."""
    (directory / f".step_{step:08d}.partial").write_text("in the way")


def test_a_failure_is_raised_at_the_next_check_and_the_good_one_stays(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, CheckpointConfig(keep_last=1))
    store.save(OneProcess(), 1, {})
    store.wait()
    store.save(OneProcess(meet=lambda: break_folder(tmp_path, 2)), 2, {})
    deadline = time.monotonic() + 20

    def check_until_late() -> None:
        while time.monotonic() < deadline:
            store.check()
            time.sleep(0.01)

    with pytest.raises(CheckpointError, match=CANNOT):
        check_until_late()
    store.check()  # said once
    assert newest_good(tmp_path).step == 1  # type: ignore[union-attr]


def test_a_failure_does_not_hide_what_ended_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def train() -> None:
        with CheckpointStore(tmp_path, CheckpointConfig()) as store:
            store.save(OneProcess(meet=lambda: break_folder(tmp_path, 2)), 2, {})
            raise TrainingError("the loss is not finite")

    with pytest.raises(TrainingError, match="the loss is not finite"):
        train()
    assert re.search(CANNOT, caplog.text)


def test_a_failure_is_raised_when_the_run_ends(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=CANNOT), CheckpointStore(tmp_path, CheckpointConfig()) as store:
        store.save(OneProcess(meet=lambda: break_folder(tmp_path, 2)), 2, {})


def test_a_failure_is_raised_by_the_next_save(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, CheckpointConfig())
    store.save(OneProcess(meet=lambda: break_folder(tmp_path, 2)), 2, {})
    with pytest.raises(CheckpointError, match=CANNOT):
        store.save(OneProcess(), 3, {})


def test_a_folder_that_cannot_be_cleared(tmp_path: Path) -> None:
    break_folder(tmp_path, 1)
    with pytest.raises(CheckpointError, match=CANNOT):
        CheckpointStore(tmp_path, CheckpointConfig()).save(OneProcess(), 2, {})


def test_the_main_rank_says_why_another_one_failed(tmp_path: Path) -> None:
    def fill_the_disk() -> None:
        (tmp_path / ".step_00000002.partial" / "ema-00001.safetensors").mkdir(parents=True)

    store = CheckpointStore(tmp_path, CheckpointConfig())
    failing = CheckpointStore(tmp_path, CheckpointConfig())
    store.save(OneProcess(world_size=2, meet=fill_the_disk), 2, {})
    failing.save(OneProcess(rank=1, world_size=2), 2, {})
    for each in (failing, store):
        with pytest.raises(CheckpointError, match=CANNOT):
            each.wait()


def test_a_full_disk(tmp_path: Path) -> None:
    """A real one, of 4 MB, where the system lets us mount it."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        store = CheckpointStore(tmp_path, CheckpointConfig())
        store.save(OneProcess(), 1, {})
        store.wait()
        store.save(OneProcess(Tensors(rows=2**18)), 2, {})
        with pytest.raises(CheckpointError, match=r"step 2 cannot be written \(No space left on device\); make room"):
            store.wait()
        assert newest_good(tmp_path).step == 1  # type: ignore[union-attr]
        store.save(OneProcess(), 3, {})  # what was left behind makes room
        store.wait()
        assert newest_good(tmp_path).step == 3  # type: ignore[union-attr]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def start(directory: Path, megabytes: int) -> subprocess.Popen[str]:
    command = [sys.executable, one_process.__file__, str(directory), str(megabytes)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    return process


def test_a_process_that_is_killed_while_it_saves_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    process = start(tmp_path, megabytes=400)
    partial = tmp_path / ".step_00000002.partial"
    while not list(partial.glob("*.safetensors")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists()
    checkpoint = newest_good(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    save_on_ranks(tmp_path, 1, step=2)  # starts over, and clears up
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000001", "step_00000002"]


ENDING = """
import sys
from pathlib import Path
from one_process import OneProcess, Tensors
from elm_dist.checkpoint.store import CheckpointStore
from elm_dist.config import CheckpointConfig

with CheckpointStore(Path(sys.argv[1]), CheckpointConfig()) as store:
    store.save(OneProcess(Tensors(rows=2**20)), 1, {})
    raise RuntimeError("something else went wrong")
"""


def test_a_process_that_fails_still_writes_what_was_begun(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENDING, str(tmp_path)]
    result = subprocess.run(command, cwd=Path(one_process.__file__).parent, capture_output=True, text=True)
    assert "something else went wrong" in result.stderr
    checkpoint = newest_good(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1

"""What becomes of each fault under a run, by real errors where this machine can make them."""

import errno
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from elm_dist.errors import FaultError
from elm_dist.monitoring.profiling import out_of_memory_explained
from elm_dist.training.faults import faults_explained

RUN = Path("runs/elm_l")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_disk_that_refuses(number: int) -> None:
    with (
        pytest.raises(FaultError, match=r"rank 3 cannot read or write runs/elm_l/metrics\.jsonl \(.*\); make room"),
        faults_explained(RUN, 3),
    ):
        raise OSError(number, "it refuses", str(RUN / "metrics.jsonl"))


def test_a_full_device() -> None:
    with (
        pytest.raises(FaultError, match=r"rank 0 cannot read or write runs/elm_l \(No space left on device\)"),
        faults_explained(RUN, 0),
        Path("/dev/full").open("w") as file,
    ):
        file.write("x" * 2**20)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("[tcp/pair.cc:537] Read error [::1]:1: Connection reset by peer. This is typically"),
            r"rank 1 lost another process.*\(Read error \[::1\]:1: Connection reset by peer\); the log of that one",
        ),
        (
            RuntimeError("[/gloo/buffer.cc:78] Timed out waiting 15000ms for recv operation"),
            "than parallel.timeout",
        ),
        (dist.DistBackendError("NCCL communicator was aborted\nC++ trace"), r"\(NCCL communicator was aborted\)"),
    ],
)
def test_a_process_that_is_gone(error: RuntimeError, said: str) -> None:
    with pytest.raises(FaultError, match=said), faults_explained(RUN, 1):
        raise error


@pytest.mark.parametrize("error", [FileNotFoundError("ours"), RuntimeError("a shape that does not fit"), KeyError("x")])
def test_mistakes_of_our_own_are_left_alone(error: Exception) -> None:
    with pytest.raises(type(error), match=error.args[0]), faults_explained(RUN, 0):
        raise error


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**60, dtype=torch.uint8), lambda: bytearray(2**60)])
def test_a_fault_of_memory_may_be_tried_again(allocate: object, tmp_path: Path) -> None:
    with (
        pytest.raises(FaultError, match="rank 2 is out of memory; set a smaller") as caught,
        out_of_memory_explained(tmp_path, 2, has_snapshot=False),
    ):
        allocate()  # type: ignore[operator]
    assert caught.value.exit_code == 1

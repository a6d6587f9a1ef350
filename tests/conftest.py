"""One thread per process, the CPU where there is no GPU, and a reason for each GPU test that is skipped."""

import os

# Before anything imports torch or deepspeed, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")

import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


# What starts processes takes longest: it goes first, so that the two workers of `make test` end together.
LONG = ("tests/distributed/test_one_curve.py", "tests/test_readme.py", "tests/distributed/", "tests/training/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((index for index, start in enumerate(LONG) if item.nodeid.startswith(start)), len(LONG))

    items.sort(key=place)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")

"""One thread per process, the CPU where there is no GPU, and a reason for each GPU test that is skipped."""

import os

# Before anything imports torch or deepspeed, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")

from pathlib import Path

import pytest
import torch
from trained_run import tokenize_tiles, train_tiny_run

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


@pytest.fixture(scope="session")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `tokenizer` and `shards` of real images; never write to it."""
    return tokenize_tiles(tmp_path_factory.mktemp("tokenized"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with checkpoints of steps 3 and 6; never write to it."""
    return train_tiny_run(tmp_path_factory.mktemp("trained"))

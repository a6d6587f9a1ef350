import os

import pytest
import torch

from elm_dist.errors import LayoutError
from elm_dist.parallel.environment import process_environment

LAUNCHED = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


def test_a_plain_run_is_a_world_of_one() -> None:
    environment = process_environment()
    assert (environment.rank, environment.world_size, environment.is_main) == (0, 1, True)
    assert environment.master_address == "127.0.0.1"


def test_a_launcher_s_variables_are_read_and_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    environment = process_environment()
    assert (environment.rank, environment.local_rank, environment.world_size) == (3, 1, 4)
    assert not environment.is_main
    monkeypatch.delenv("MASTER_PORT")
    environment.export()
    assert {name: os.environ[name] for name in LAUNCHED} == LAUNCHED


def test_a_variable_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(LayoutError, match=r"sets RANK but not LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; start"):
        process_environment()


def test_a_variable_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (LAUNCHED | {"RANK": "first"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LayoutError, match=r"must be whole numbers .*first"):
        process_environment()


def test_a_device_is_chosen_before_deepspeed_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "unset")
    process_environment().choose_device("auto")
    assert os.environ["DS_ACCELERATOR"] == ("cuda" if torch.cuda.is_available() else "cpu")
    process_environment().choose_device("cpu")
    assert os.environ["DS_ACCELERATOR"] == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that the message misses")
def test_a_gpu_that_is_not_there_is_not_waited_for() -> None:
    with pytest.raises(
        LayoutError, match=r"parallel\.device=cuda, but torch sees no GPU here; set parallel.device=auto"
    ):
        process_environment().choose_device("cuda")

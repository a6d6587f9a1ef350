"""Every launcher's word on which process this is; mpirun's for real."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from elm_dist.errors import LayoutError
from elm_dist.parallel.environment import first_host, process_environment

LAUNCHED = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


STEP = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "2",
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*LAUNCHED, *STEP]:
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


def test_a_step_of_srun_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    environment = process_environment()
    assert (environment.rank, environment.local_rank, environment.world_size) == (5, 1, 8)
    assert environment.master_address == "gpu03"
    assert 15_000 <= environment.master_port < 32_000
    assert environment.source.startswith("srun")
    monkeypatch.setenv("SLURM_STEP_ID", "3")
    assert process_environment().master_port == environment.master_port + 1  # another step of the job is another run
    monkeypatch.setenv("MASTER_ADDR", "10.1.2.3")
    monkeypatch.setenv("MASTER_PORT", "4242")
    assert (process_environment().master_address, process_environment().master_port) == ("10.1.2.3", 4242)
    for name, value in LAUNCHED.items():  # torchrun inside a step goes before the step
        monkeypatch.setenv(name, value)
    assert process_environment().rank == 3


def test_a_step_that_lacks_a_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    with pytest.raises(LayoutError, match="but not SLURM_STEP_NODELIST; start with `srun`"):
        process_environment()


def test_processes_of_srun_that_would_each_train_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (STEP | LAUNCHED | {"RANK": "0", "WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LayoutError, match=r"`srun` started 8 processes, but RANK, WORLD_SIZE, .* unset RANK, LOCAL_"):
        process_environment()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert process_environment().world_size == 1


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[03-05,07],cpu1", "gpu03"),
        ("gpu[7,9]", "gpu7"),
        ("rack[1-2]node[10-12]", "rack1node10"),
    ],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_mpirun_tells_through_mpi4py(tmp_path: Path) -> None:
    report = (
        "import json; from dataclasses import asdict; from pathlib import Path; "
        "from elm_dist.parallel.environment import process_environment; "
        f"e = process_environment(); Path({str(tmp_path)!r}, str(e.rank)).write_text(json.dumps(asdict(e)))"
    )
    mpirun = str(Path(sys.executable).parent / "mpirun")
    subprocess.run([mpirun, "-n", "3", sys.executable, "-c", report], timeout=60, check=True)
    found = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    assert [(e["rank"], e["local_rank"], e["world_size"]) for e in found] == [(0, 0, 3), (1, 1, 3), (2, 2, 3)]
    assert {e["master_address"] for e in found} == {"127.0.0.1"}
    assert len({e["master_port"] for e in found}) == 1
    assert found[0]["source"] == "mpirun (mpi4py)"


def test_mpirun_of_another_mpi_is_refused() -> None:
    # As Open MPI's mpirun sets it, which is not the MPI of this environment.
    result = subprocess.run(
        [sys.executable, "-m", "elm_dist", "train", "configs/demo.yaml"],
        env=os.environ | {"OMPI_COMM_WORLD_SIZE": "4"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert "`mpirun` started 4 processes, but mpi4py sees 1: it loaded another MPI" in result.stderr


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

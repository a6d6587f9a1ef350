"""The same two-stage run by every launcher: the same losses and the same weights, bit for bit.

`deepspeed` on one machine is in `tests/training/test_trainer.py`; a real SLURM is beyond this folder, but its variables
are read here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trained_run import TINY, TRAIN, folders, tokenize_tiles

from elm_dist.parallel.environment import free_port

BIN = Path(sys.executable).parent
SETTINGS = [
    *("parallel.pipeline_stages=2", "schedule.total_steps=3", "schedule.warmup_steps=0"),
    *("monitoring.sample_every=0", "monitoring.validation_every=0", "monitoring.tensorboard=false"),
]


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenize_tiles(tmp_path_factory.mktemp("launched"))


@pytest.fixture(scope="module")
def expected(tokenized: Path) -> tuple[list[float], list[str]]:
    """Return what `torchrun` gives."""
    port = str(free_port())
    command = [str(BIN / "torchrun"), "--nproc_per_node", "2", "--master_port", port, *train(tokenized, "torchrun")]
    run_together([(command, {})])
    return outcome(tokenized, "torchrun")


def train(tokenized: Path, run: str) -> list[str]:
    return [str(TRAIN), "--config", str(TINY), *folders(tokenized, tokenized / run), *SETTINGS]


def run_together(commands: list[tuple[list[str], dict[str, str]]]) -> str:
    """Run the commands at the same time, each with its environment, and return what the first one printed."""
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | environment | {"DS_ACCELERATOR": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for command, environment in commands
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(commands), outputs
    return outputs[0]


def outcome(tokenized: Path, run: str) -> tuple[list[float], list[str]]:
    """Return the losses of a run, and the hashes of all files of its last checkpoint."""
    losses = [json.loads(line)["train/loss"] for line in (tokenized / run / "metrics.jsonl").read_text().splitlines()]
    manifest = json.loads((tokenized / run / "checkpoints" / "step_00000003" / "manifest.json").read_text())
    assert len(losses) == 3
    return losses, sorted(file["sha256"] for file in manifest["files"].values())


def test_mpirun(tokenized: Path, expected: tuple[list[float], list[str]]) -> None:
    command = [str(BIN / "mpirun"), "-n", "2", sys.executable, *train(tokenized, "mpirun")]
    output = run_together([(command, {})])
    assert "process 0 of 2, as mpirun (mpi4py) says" in output
    assert outcome(tokenized, "mpirun") == expected


def test_srun_s_variables(tokenized: Path, expected: tuple[list[float], list[str]]) -> None:
    shared = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
    }
    tasks = [shared | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "MASTER_PORT": str(free_port())} for rank in "01"]
    tasks[1]["MASTER_PORT"] = tasks[0]["MASTER_PORT"]
    output = run_together([([sys.executable, *train(tokenized, "srun")], task) for task in tasks])
    assert "process 0 of 2, as srun (SLURM_PROCID, ...) says" in output
    assert outcome(tokenized, "srun") == expected


def test_deepspeed_on_the_machines_of_a_hostfile(
    tokenized: Path, expected: tuple[list[float], list[str]], tmp_path: Path
) -> None:
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("node-a slots=1\nnode-b slots=1\n")
    # `--no_ssh`: the same command on each machine, which says which one it is.
    master = ["--no_ssh", "--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    commands = [
        [str(BIN / "deepspeed"), "--hostfile", str(hostfile), *master, "--node_rank", node, *train(tokenized, "hosts")]
        for node in "01"
    ]
    run_together([(command, {}) for command in commands])
    assert outcome(tokenized, "hosts") == expected

"""Whole trainings on a real SLURM, submitted as its users do: two nodes train what one process does, and whatever stops
a job on the way, in the end its weights are those of one process that was never stopped, bit for bit.

Pipeline stages without clipping have every bit of one process; replicas round otherwise in the last digits.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from slurm_cluster import SlurmCluster, wait_until
from torch import Tensor
from trained_run import TINY, TRAIN, folders, tokenize_tiles

from elm_dist.checkpoint.store import Checkpoint
from elm_dist.checkpoint.tokenizer import has_tokenizer

pytestmark = pytest.mark.slurm

ROOT = TRAIN.parent.parent
STEPS = 200
TWO_NODES = ["--nodes=2", "--ntasks-per-node=1", "--gres=gpu:1", "--cpus-per-task=1", "--time=30"]
SETTINGS = [
    *(
        f"{section}.{key}={json.dumps(value)}"
        for section, keys in yaml.safe_load(TINY.read_text()).items()
        for key, value in keys.items()
    ),
    *(
        "optimizer.gradient_clipping=0",
        f"schedule.total_steps={STEPS}",
        "checkpoint.every=50",
        "checkpoint.keep_last=99",
    ),
    *("monitoring.sample_every=0", "monitoring.validation_every=0", "monitoring.tensorboard=false", "sampling.top_k=0"),
]
STAGES = "parallel.pipeline_stages=2"


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenize_tiles(tmp_path_factory.mktemp("slurm"))


@pytest.fixture(scope="module")
def one(tokenized: Path) -> Path:
    """A run of one process that nobody disturbs."""
    run = tokenized / "one"
    command = [sys.executable, str(TRAIN), "--config", "configs/elm_xxl.yaml", *settings(tokenized, run)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return run


def settings(tokenized: Path, run: Path) -> list[str]:
    return [*SETTINGS, *folders(tokenized, run)]


def submit(
    cluster: SlurmCluster, tokenized: Path, run: Path, *options: str, overrides: tuple[str, ...] = (STAGES,)
) -> str:
    log = f"--output={run}.log"
    script = "cluster/train_elm_xxl.sh"
    return cluster.submit(*TWO_NODES, log, *options, script, *settings(tokenized, run), *overrides, cwd=ROOT)


def wait_for_step(run: Path, step: int) -> None:
    """Wait until a run has reported `step`."""

    def has_reported() -> bool | None:
        return any(line["step"] >= step for line in read_reports(run)) or None

    wait_until(has_reported, lambda: f"{run} did not come to step {step}: {read_log(run)}", 240)


def read_log(run: Path) -> str:
    log = run.with_suffix(".log")
    return log.read_text() if log.exists() else "no log"


def read_reports(run: Path) -> list[dict[str, float]]:
    file = run / "metrics.jsonl"
    whole = file.read_text().split("\n")[:-1] if file.exists() else []  # the last line may be half written
    return [json.loads(line) for line in whole]


def read_losses(run: Path) -> list[float]:
    reports = read_reports(run)
    assert [report["step"] for report in reports] == list(range(1, STEPS + 1))
    return [report["train/loss"] for report in reports]


def read_tensors(run: Path) -> dict[str, Tensor]:
    """Return weights, averages and moments of the last step."""
    checkpoint = Checkpoint(run / "checkpoints" / f"step_{STEPS:08d}")
    checkpoint.verify(checkpoint.files)
    return {
        f"{kind}/{name}": checkpoint.read(kind, name, torch.Size(shape))
        for kind in ("weights", "ema", "exp_avg", "exp_avg_sq")
        for name, shape in checkpoint.shapes.items()
    }


def assert_as_never_stopped(run: Path, one: Path) -> None:
    assert read_losses(run) == read_losses(one)
    expected, found = read_tensors(one), read_tensors(run)
    assert not [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]


def test_two_nodes_of_two_gpus_train_what_one_process_trains(cluster: SlurmCluster, tokenized: Path, one: Path) -> None:
    run = tokenized / "four"
    job = submit(cluster, tokenized, run, "--ntasks-per-node=2", "--gres=gpu:2", "--nodelist=gpu[0-1]")
    wait_for_step(run, 5)
    listeners = {node: read_listeners(cluster, node) for node in ("gpu0", "gpu1")}
    cluster.wait_for(job, "COMPLETED")
    assert "4 processes = 2 pipeline stages (1f1b) x 2 replicas" in read_log(run)
    assert_listeners_are_known(listeners, cluster)
    assert read_losses(run)[:50] == pytest.approx(read_losses(one)[:50], rel=1e-6)


def read_listeners(cluster: SlurmCluster, node: str) -> list[tuple[str, str]]:
    """Return the address and the program of every TCP port that somebody listens on."""
    lines = cluster.run_on(node, "ss", "--tcp", "--listening", "--numeric", "--processes", "--no-header").splitlines()
    found = [(line.split()[3].rpartition(":")[0], re.search(r'\(\("([^"]+)"', line)) for line in lines]
    return sorted((address, program[1] if program else "") for address, program in found)


def assert_listeners_are_known(listeners: dict[str, list[tuple[str, str]]], cluster: SlurmCluster) -> None:
    print(listeners)


def by_signal(cluster: SlurmCluster, job: str) -> None:
    cluster.run("scancel", "--signal=USR1", "--batch", job)


def by_requeue(cluster: SlurmCluster, job: str) -> None:
    cluster.run("scontrol", "requeue", job)


def by_death_of_a_node(cluster: SlurmCluster, job: str) -> None:
    """Of the one that runs the batch script, too."""
    node = cluster.job(job)["BatchHost"]
    cluster.crash(node)
    wait_until(lambda: "down" in cluster.state(node) or None, lambda: f"{node} is {cluster.state(node)}", 120)
    cluster.boot(node)


@pytest.mark.parametrize("stop", [by_signal, by_requeue, by_death_of_a_node])
def test_a_job_that_is_stopped_goes_on_as_if_it_never_was(
    cluster: SlurmCluster, tokenized: Path, one: Path, stop: Callable[[SlurmCluster, str], None]
) -> None:
    run = tokenized / stop.__name__
    job = submit(cluster, tokenized, run)
    wait_for_step(run, 60)
    stop(cluster, job)
    cluster.wait_for_restart(job)
    cluster.wait_for(job, "COMPLETED")
    assert re.search(r"^0: resuming .* at step \d+", read_log(run), flags=re.MULTILINE)
    assert_as_never_stopped(run, one)


def test_the_next_job_of_a_chain_goes_on(cluster: SlurmCluster, tokenized: Path, one: Path) -> None:
    run = tokenized / "chain"
    first = submit(cluster, tokenized, run, "--no-requeue", "--job-name=chain")
    second = submit(cluster, tokenized, run, "--no-requeue", "--job-name=chain", "--dependency=singleton")
    wait_for_step(run, 60)
    assert cluster.job(second)["Reason"] == "Dependency"
    cluster.run("scancel", "--signal=USR1", "--batch", first)
    cluster.wait_for(first, "COMPLETED")
    cluster.wait_for(second, "COMPLETED")
    assert "resuming" in read_log(run)
    assert_as_never_stopped(run, one)


def test_elm_submit_trains_each_seed_in_a_folder_of_its_own(cluster: SlurmCluster, tokenized: Path) -> None:
    run = tokenized / "$(touch canary); touch 'canary"
    said = cluster.run(
        *(sys.executable, "-m", "elm_dist", "submit", str(ROOT / "configs" / "elm_xxl.yaml"), "--nodes=1"),
        *("--gpus-per-node=1", "--time=30", "--array=3,5", *settings(tokenized, tokenized), f"run.directory={run}"),
        *("schedule.total_steps=2", "schedule.warmup_steps=0"),
        cwd=tokenized,
    )
    job = said.removeprefix("job ")
    for seed in (3, 5):
        cluster.wait_for(f"{job}_{seed}", "COMPLETED")
        written = yaml.safe_load((run / f"seed_{seed}" / "config.yaml").read_text())
        assert written["run"]["seed"] == seed
    assert not list(tokenized.rglob("canary"))


def test_two_processes_tokenize_what_one_does(cluster: SlurmCluster, tokenized: Path) -> None:
    """By the script for ImageNet, whose options give way to those given again."""
    here = ["--images", str(tokenized / "images"), "--tokenizer", str(tokenized / "tokenizer")]
    options = [*here, "--out", str(tokenized / "again"), "--no-flip", "--batch-size=16"]
    run_on_two_gpus(cluster, tokenized, "tokenize_imagenet", *options)
    written = {path.name: path.read_bytes() for path in (tokenized / "again").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tokenized / "shards").iterdir()}


def test_a_tokenizer_is_trained(cluster: SlurmCluster, tokenized: Path) -> None:
    training = {"total_steps": 4, "batch_size": 8, "perceptual": "none", "adversarial_weight": 0, "loader_workers": 0}
    overrides = [f"tokenizer_training.{name}={value}" for name, value in training.items()]
    folder = tokenized / "trained"
    overrides += [f"tokenizer_training.images={tokenized / 'images'}", f"tokenizer.directory={folder}"]
    log = run_on_two_gpus(cluster, tokenized, "train_tokenizer", str(TINY), *overrides)
    assert "trained in 4 steps" in log
    assert has_tokenizer(folder)


def run_on_two_gpus(cluster: SlurmCluster, tokenized: Path, script: str, *arguments: str) -> str:
    """Run a script of the repository to its good end and return its log."""
    log = tokenized / f"{script}.log"
    options = ["--ntasks-per-node=2", "--gres=gpu:2", "--cpus-per-task=1", f"--output={log}", "--no-requeue"]
    job = cluster.submit(*options, f"cluster/{script}.sh", *arguments, cwd=ROOT)
    state = cluster.wait_for(job, "COMPLETED", "FAILED")["JobState"]
    assert state == "COMPLETED", log.read_text()
    return log.read_text()


def test_the_doctor_examines_all_nodes_of_a_job(cluster: SlurmCluster, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    doctor = [sys.executable, "-m", "elm_dist", "doctor", "--out", str(out)]
    cluster.run("srun", "--nodes=2", "--ntasks-per-node=2", "--nodelist=gpu[0-1]", "--time=5", *doctor, cwd=ROOT)
    findings = json.loads(out.read_text())["findings"]
    examined = [finding["host"] for finding in findings if finding["subject"] == "device"]
    assert sorted(examined) == ["gpu0", "gpu1"], "one process of each node does it"
    assert "4 processes over gloo" in next(f["found"] for f in findings if f["subject"] == "all-reduce")

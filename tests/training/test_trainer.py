"""Whole runs through the launchers that users type: they train, resume bit for bit, stop when told, and say why not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trained_run import TINY, TRAIN, folders

from elm_dist.config_file import load_config

BIN = Path(sys.executable).parent
SPEED = ("speed/", "memory/", "progress/eta_hours", "progress/goodput_percent")

PYTHON = [sys.executable, str(TRAIN)]
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2", str(TRAIN)]
DEEPSPEED = [str(BIN / "deepspeed"), "--quiet", "--num_gpus", "2", "--master_port", "29417", str(TRAIN)]
STAGES = "parallel.pipeline_stages=2"


def arguments(tokenized: Path, run: Path, *overrides: str) -> list[str]:
    return ["--config", str(TINY), *folders(tokenized, run), *overrides]


def train(launcher: list[str], tokenized: Path, run: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [*launcher, *arguments(tokenized, run, *overrides)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=run.parent)


def finish(launcher: list[str], tokenized: Path, run: Path, *overrides: str) -> str:
    result = train(launcher, tokenized, run, *overrides)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def read_metrics(run: Path) -> list[dict[str, float]]:
    """Return all reports without what depends on the machine's mood."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if not name.startswith(SPEED)} for line in lines]


def read_sums(run: Path, step: int) -> dict[str, str]:
    manifest = json.loads((run / "checkpoints" / f"step_{step:08d}" / "manifest.json").read_text())
    return {file: entry["sha256"] for file, entry in manifest["files"].items()}


def copy_up_to(run: Path, step: int, copy: Path) -> Path:
    """Copy a run as it was right after its checkpoint of `step`, with reports that were written past it."""
    shutil.copytree(run, copy)
    for folder in (copy / "checkpoints").glob("step_*"):
        if int(folder.name.removeprefix("step_")) > step:
            shutil.rmtree(folder)
    (copy / "checkpoints" / "latest").write_text(f"step_{step:08d}")
    return copy


@pytest.fixture(scope="module")
def plain(tokenized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one process."""
    run = tmp_path_factory.mktemp("plain") / "run"
    finish(PYTHON, tokenized, run)
    return run


@pytest.fixture(scope="module")
def staged(tokenized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on two pipeline stages, started by the deepspeed launcher."""
    run = tmp_path_factory.mktemp("staged") / "run"
    finish(DEEPSPEED, tokenized, run, STAGES)
    return run


def test_a_run_leaves_what_its_users_look_for(plain: Path) -> None:
    assert load_config(plain / "config.yaml").run.directory == plain
    facts = json.loads((plain / "environment.json").read_text())
    assert facts["versions"]["torch"]
    assert "1 processes = 1 pipeline stages x 1 replicas" in facts["layout"]
    assert Image.open(plain / "samples" / "step_00000006.png").size[0] > 4 * 32
    assert (plain / "checkpoints" / "latest").read_text() == "step_00000006"
    weights = load_file(plain / "checkpoints" / "step_00000006" / "weights-00000.safetensors")
    assert weights["embedding.classes.weight"].shape == (5, 32)


def test_reports_have_the_documented_names(plain: Path) -> None:
    first = json.loads((plain / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 1
    expected = {
        "train/loss",
        "train/bits_per_code_bit",
        "train/loss_head_0",
        "train/loss_head_1",
        "train/accuracy_head_0",
        "train/accuracy_head_1",
        "optimizer/learning_rate",
        "optimizer/grad_norm",
        "speed/images_per_second",
        "speed/step_seconds",
        "speed/data_wait_percent",
        "memory/peak_gib",
        "data/bad_shards",
        "data/replaced_samples",
        "train/spike_sigma",
        "progress/skipped_steps",
        "progress/samples_seen",
        "progress/eta_hours",
        "progress/goodput_percent",
    }
    assert set(first) - {"step"} == expected
    assert first["train/bits_per_code_bit"] == pytest.approx(1)  # heads start at zero
    events = EventAccumulator(str(plain / "tensorboard")).Reload()
    assert expected | {"validation/loss"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("samples/grid")] == [3, 6]


def test_the_loss_falls(plain: Path) -> None:
    losses = [line["train/loss"] for line in read_metrics(plain) if "train/loss" in line]
    assert losses[-1] < losses[0]


def test_stages_under_deepspeed_train_the_same_curve_as_one_process(plain: Path, staged: Path) -> None:
    for one, two in zip(read_metrics(plain), read_metrics(staged), strict=True):
        assert one == pytest.approx(two, rel=1e-5)  # not bit-equal: the gradient is clipped by a norm


@pytest.mark.parametrize("kind", ["plain", "staged"])
def test_a_resumed_run_ends_bit_for_bit_like_one_that_was_not_stopped(
    kind: str, tokenized: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Losses, weights, averages and moments; the stages are resumed by another launcher than they began with."""
    whole = request.getfixturevalue(kind)
    run = copy_up_to(whole, 3, tmp_path / "run")
    launcher, overrides = (PYTHON, []) if kind == "plain" else (TORCHRUN, [STAGES])
    assert "resuming" in finish(launcher, tokenized, run, *overrides)
    assert read_sums(run, 6) == read_sums(whole, 6)
    assert read_metrics(run) == read_metrics(whole)


def test_a_run_goes_on_on_another_layout(plain: Path, tokenized: Path, tmp_path: Path) -> None:
    """Begun by one process, resumed on two replicas with ZeRO 3, which divides every tensor."""
    run = copy_up_to(plain, 3, tmp_path / "run")
    assert "2 replicas" in finish(TORCHRUN, tokenized, run, "parallel.zero_stage=3")
    for one, two in zip(read_metrics(plain), read_metrics(run), strict=True):
        assert one == pytest.approx(two, rel=1e-5)


def test_a_finished_run_says_so_and_is_left_alone(plain: Path, tokenized: Path) -> None:
    before = (plain / "metrics.jsonl").read_bytes()
    assert "is finished: all 6 steps are done" in finish(PYTHON, tokenized, plain)
    assert (plain / "metrics.jsonl").read_bytes() == before


def test_a_signal_ends_the_run_after_a_checkpoint(tokenized: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*PYTHON, *arguments(tokenized, run, "schedule.total_steps=100000", "checkpoint.every=0")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("step 2/"):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert lines[-1].startswith("stopped at step"), lines
    step = int((run / "checkpoints" / "latest").read_text().removeprefix("step_"))
    assert read_metrics(run)[-1]["step"] == step


def fails(tokenized: Path, run: Path, *overrides: str) -> str:
    result = train(PYTHON, tokenized, run, *overrides)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_the_literal_command_without_data_says_which_commands_help(tmp_path: Path) -> None:
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    command = [str(BIN / "deepspeed"), "--num_gpus", "8", "--master_port", "29418", str(TRAIN)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 2, result.stderr
    said = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1  # by one process, not by eight
    assert "shards/imagenet256_bae20: there are no token shards here" in said[0]
    assert "`elm tokenizer train CONFIG`" in said[0]
    assert (
        "`elm tokenize --images data/imagenet --tokenizer tokenizers/bae_20 --out shards/imagenet256_bae20`" in said[0]
    )


def test_too_few_classes_are_refused(tokenized: Path, tmp_path: Path) -> None:
    said = fails(tokenized, tmp_path / "run", "model.num_classes=3", "monitoring.sample_classes=[0]")
    assert "model.num_classes=3 is too few" in said
    assert "has 4 classes; set model.num_classes=4" in said
    assert not (tmp_path / "run").exists()


def test_too_little_to_validate_on_is_refused(tokenized: Path, tmp_path: Path) -> None:
    said = fails(tokenized, tmp_path / "run", "monitoring.validation_samples=4")
    assert "validation needs at least one global batch of 8 samples, but monitoring.validation_samples is 4" in said


def test_shards_of_another_tokenizer_are_refused(tokenized: Path, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer"
    shutil.copytree(tokenized / "tokenizer", other)
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (other / "model.safetensors").write_bytes(data)
    said = fails(tokenized, tmp_path / "run", f"tokenizer.directory={other}")
    assert "the shards do not fit this run (tokenizer_fingerprint is" in said


def test_a_run_does_not_go_on_with_another_seed(plain: Path, tokenized: Path, tmp_path: Path) -> None:
    run = copy_up_to(plain, 3, tmp_path / "run")
    said = fails(tokenized, run, "run.seed=2")
    assert "step_00000003 cannot go on here: its seed is 1, this run's is 2; use the same data, seed" in said


def test_a_run_does_not_go_on_with_another_model(plain: Path, tokenized: Path, tmp_path: Path) -> None:
    run = copy_up_to(plain, 3, tmp_path / "run")
    assert "has shape [5, 32], the configuration makes it [5, 64]; use" in fails(tokenized, run, "model.hidden_size=64")


def test_a_loss_that_is_not_finite_ends_the_run_with_the_remedy(tokenized: Path, tmp_path: Path) -> None:
    begin = time.monotonic()
    settings = ("optimizer.learning_rate=1e30", "schedule.warmup_steps=0", "health.skips_before_rollback=3")
    said = fails(tokenized, tmp_path / "run", *settings)
    assert "did not help; delete it to go on from the one before, or start anew, with a lower optimizer" in said
    assert time.monotonic() - begin < 100

"""Whole runs of other models than the paper's best: trained, resumed, sampled and measured by the commands."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import elm
from PIL import Image
from trained_run import TINY, TRAIN, folders

VARIANTS = {
    "masked": ["model.modelling=masked", "sampling.iterations=4", "model.conditioning=adaln"],
    "scanned": [
        *("model.scan=diagonal_zigzag", "model.position_encoding=rope_1d", "model.key_value_heads=1"),
        *("loss.label_smoothing=0.1", "loss.z_loss=1e-4", "model.drop_path=0.1"),
    ],
    "sequential": ["model.subtoken_prediction=sequential", "sampling.lookahead=2"],
}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(
    scope="module",
    params=["masked", *(pytest.param(name, marks=pytest.mark.slow) for name in ("scanned", "sequential"))],
)
def run(request: pytest.FixtureRequest, tokenized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after half of its steps and went on."""
    run = tmp_path_factory.mktemp(request.param) / "run"
    for steps in (3, 6):
        overrides = [*folders(tokenized, run), *VARIANTS[request.param], f"schedule.total_steps={steps}"]
        overrides.append("monitoring.validation_samples=1000")
        subprocess.run(
            [sys.executable, str(TRAIN), "--config", str(TINY), *overrides, "schedule.warmup_steps=0"],
            check=True,
            capture_output=True,
        )
    return run


def test_it_trains_and_goes_on(run: Path) -> None:
    steps = [metrics for metrics in read_metrics(run) if "train/loss" in metrics]
    assert [metrics["step"] for metrics in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1]["train/loss"] < steps[0]["train/loss"]


def test_its_images_are_drawn_and_are_the_same_again(run: Path, tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("one", "two")]
    for out in outs:
        result = elm("sample", str(run), "--classes", "0,1", "--per-class", "2", "--out", str(out))
        assert result.code == 0, result
    pictures = [sorted(out.rglob("class_*/*.png")) for out in outs]
    assert len(pictures[0]) == 4
    for one, other in zip(*pictures, strict=True):
        assert np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))


def test_evaluating_it_gives_what_training_measured(run: Path, tmp_path: Path) -> None:
    """Both measure all images of the validation split, which are whole batches here."""
    assert elm("evaluate", str(run), "--out", str(tmp_path / "scores.json")).code == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    trained = [metrics["validation/loss"] for metrics in read_metrics(run) if "validation/loss" in metrics]
    assert scores["raw validation/loss"] == pytest.approx(trained[-1], rel=1e-5)

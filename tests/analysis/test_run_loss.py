"""`elm evaluate RUN` on a run that was really trained: its losses are those that training found, and bits add up."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from command_line import elm, refused
from feature_weights import install_mobilenet
from trained_run import TINY, TRAIN, folders, tokenize_tiles

from elm_dist.checkpoint.model import load_model, weights_sha256
from elm_dist.checkpoint.run_folder import choose_checkpoint, load_run_config
from elm_dist.codes.packing import unpack_subtokens
from elm_dist.data.loader import TokenLoader
from elm_dist.model.elm import code_shape
from elm_dist.sampling.settings import claim_folder

IMAGES = 32  # of the validation split


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that measured its whole validation split at its last step."""
    directory = tmp_path_factory.mktemp("trained")
    settings = [*folders(tokenize_tiles(directory), directory / "run"), f"monitoring.validation_samples={IMAGES}"]
    command = [sys.executable, str(TRAIN), "--config", str(TINY), *settings]
    subprocess.run(command, check=True, capture_output=True)
    return directory / "run"


def evaluate(target: Path, out: Path, *options: str) -> tuple[dict[str, Any], str]:
    result = elm("evaluate", str(target), "--out", str(out), *options)
    assert result.code == 0, result
    return json.loads(out.read_text()), result.stdout


def test_raw_weights_lose_what_training_measured(run: Path, tmp_path: Path) -> None:
    found, said = evaluate(run, tmp_path / "loss.json")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "validation/loss" in line][-1]
    names = [name for name in trained if name.startswith("validation/")]
    assert len(names) == 6
    for name in names:
        assert found["scores"][f"raw {name}"] == pytest.approx(trained[name], rel=1e-5)
    assert f"{found['scores']['raw validation/loss']:.4f}" in said
    assert "at step 6 on 32 validation images" in said


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_bits_of_an_image_are_those_of_its_sub_tokens(run: Path, tmp_path: Path, weights: Any) -> None:
    found, _ = evaluate(run, tmp_path / "loss.json", "--batch-size", "5")  # the last batch is shorter
    config = load_run_config(run)
    options = {"global_batch_size": IMAGES, "micro_batch_size": IMAGES, "class_dropout": 0, "null_class": 4}
    batch = TokenLoader(config.data.shards, seed=0, **options).validation_micro_batch(0, 0)
    logits = load_model(choose_checkpoint(run, None), config, weights)((batch.codes, batch.labels))
    targets = unpack_subtokens(batch.codes, code_shape(config.model, config.tokenizer.grid))
    assert targets.shape == (IMAGES, 16, 2)
    nats = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="sum").item()
    bits = found["scores"][f"{weights} validation/bits_per_image"]
    assert bits == pytest.approx(nats / math.log(2) / IMAGES, rel=1e-5)
    assert bits == pytest.approx(found["scores"][f"{weights} validation/bits_per_code_bit"] * 16 * 8, rel=1e-9)


def test_both_kinds_of_weights_are_measured(run: Path, tmp_path: Path) -> None:
    scores = evaluate(run, tmp_path / "loss.json")[0]["scores"]
    assert scores["ema validation/loss"] != scores["raw validation/loss"]
    names = {name.partition(" ")[2] for name in scores}
    assert len(scores) == 2 * len(names)


def test_settings_tell_what_was_measured(run: Path, tmp_path: Path) -> None:
    settings = evaluate(run, tmp_path / "loss.json")[0]["settings"]
    checkpoint, config = choose_checkpoint(run, None), load_run_config(run)
    assert (settings["step"], settings["validation_images"], settings["seed"]) == (6, IMAGES, 1)
    assert settings["weights_sha256"] == {kind: weights_sha256(checkpoint, kind) for kind in ("ema", "raw")}
    assert settings["weights_sha256"]["ema"] != settings["weights_sha256"]["raw"]
    # By these, a loss and samples are known to be of the same weights.
    claim_folder(tmp_path / "samples", run, config, step=None, is_main=True)
    drawn = json.loads((tmp_path / "samples" / "sampling.json").read_text())
    assert drawn["weights_sha256"] == settings["weights_sha256"]["ema"]
    assert drawn["tokenizer_sha256"] == settings["tokenizer_sha256"]


def test_samples_of_it_carry_how_they_were_drawn(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_mobilenet(tmp_path, monkeypatch)
    drawn, images = tmp_path / "drawn", run.parent / "images" / "validation"
    assert elm("sample", str(run), "--out", str(drawn), "--seed", "5", "--per-class", "2", "--npz").code == 0
    loss, _ = evaluate(run, tmp_path / "loss.json")
    options = ["--reference", str(images), "--features", "mobilenet_v2"]
    of_folder, of_npz = (
        evaluate(samples, tmp_path / "scores.json", *options)[0] for samples in (drawn, drawn / "samples.npz")
    )
    samples = of_folder["settings"]["samples"]
    assert samples["images"] == 8  # without the grid
    assert samples["sampling"] == json.loads((drawn / "sampling.json").read_text())
    assert samples["sampling"]["seed"] == 5
    assert samples["sampling"]["weights_sha256"] == loss["settings"]["weights_sha256"]["ema"]
    assert of_npz["scores"] == of_folder["scores"]
    assert of_npz["settings"]["samples"]["sampling"] == samples["sampling"]


def test_two_runs_compare(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for name, size in (("a.json", "32"), ("b.json", "7")):
        evaluate(run, tmp_path / name, "--batch-size", size)
    said = elm("evaluate", "--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")).stdout
    assert "+0.0000" in said or "-0.0000" in said
    assert "batch_size" in said
    assert "sha256" not in said


def test_other_shards_are_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shards = load_run_config(run).data.shards
    shutil.copytree(shards, tmp_path / "shards")
    manifest = tmp_path / "shards" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    (copy / "config.yaml").write_text((run / "config.yaml").read_text().replace(str(shards), str(tmp_path / "shards")))
    said = refused("evaluate", str(copy))
    assert f"error: {tmp_path / 'shards'}: these are not the shards that {copy} was trained on; bring those" in said


def test_what_does_not_go_with_a_run(run: Path, tmp_path: Path) -> None:
    said = refused("evaluate", str(run), "--reference", str(tmp_path))
    assert f"error: {run} is a run, whose loss needs no reference; to score images of it, draw them with" in said
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    assert f"error: {copy} has no checkpoint" in refused("evaluate", str(copy))


def test_nothing_is_computed_for_gradients(run: Path) -> None:
    model = load_model(choose_checkpoint(run, None), load_run_config(run), "ema")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())

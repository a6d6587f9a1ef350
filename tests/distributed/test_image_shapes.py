"""Images that are not square, and larger ones than those of the run that a run begins with, through the whole chain.

The tokenizer is trained on photographs of 32 x 48 pixels, which become 4 x 6 codes. All models train in one process.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import elm
from feature_weights import install_mobilenet
from photographs import write_tiles
from PIL import Image
from processes import run_processes
from trained_run import TINY

from elm_dist.checkpoint.tokenizer import load_tokenizer, save_tokenizer
from elm_dist.config import ImageSize
from elm_dist.config_file import load_config
from elm_dist.launch.data_check import check_data
from elm_dist.model.rotary import rope_table

WORKER = Path(__file__).parent / "chain_worker.py"
STEPS = 4
WIDE = {
    "row_raster": ["model.scan=row_raster"],
    "column_zigzag": ["model.scan=column_zigzag", "model.position_encoding=rope_1d"],
    "diagonal_zigzag": ["model.scan=diagonal_zigzag", "model.position_encoding=learned"],
    "masked": ["model.modelling=masked"],
}
GROWN = {"integer": "model.rope_grid=0", "interpolated": "model.rope_grid=4"}


def check(*arguments: object) -> str:
    """Run `elm ARGUMENTS`, which must work, and return what it said."""
    result = elm(*map(str, arguments))
    assert result.code == 0, result
    return result.stdout


def overrides(root: Path, data: str, name: str, *more: str) -> list[str]:
    """Return what to lay over tiny_run.yaml for a run of some steps on the tokenizer and the shards of `data`."""
    return [
        f"run.directory={root / name}",
        f"tokenizer.directory={root / data / 'tokenizer'}",
        f"data.shards={root / data / 'shards'}",
        f"schedule.total_steps={STEPS}",
        *("checkpoint.every=0", "monitoring.sample_every=4", "monitoring.validation_every=4"),
        *more,
    ]


def tokenize(root: Path, data: str) -> None:
    folder = root / data
    check("tokenize", "--images", folder / "images", "--tokenizer", folder / "tokenizer", "--out", folder / "shards")


def prepare(root: Path) -> None:
    """Write images, a tokenizer and shards of three sizes: 32 x 48, and, by the weights of one, 32 x 32 and 64 x 64."""
    write_tiles(root / "wide" / "images", train=8, validation=4, width=48)
    training = {"total_steps": STEPS, "batch_size": 4, "loader_workers": 0, "perceptual": "none"}
    training |= {"adversarial_weight": 0, "images": root / "wide" / "images"}
    settings = [f"tokenizer_training.{key}={value}" for key, value in training.items()]
    wide = overrides(root, "wide", "unused", "tokenizer.image_size=[32, 48]")
    check("tokenizer", "train", TINY, *wide, *settings)
    tokenize(root, "wide")
    tokenizer = load_tokenizer(root / "wide" / "tokenizer", "cpu")
    for data, side in (("small", 32), ("large", 64)):
        write_tiles(root / data / "images", train=8, validation=4, size=side)
        config = tokenizer.config.model_copy(update={"image_size": ImageSize(side, side)})
        save_tokenizer(root / data / "tokenizer", tokenizer, config)
        tokenize(root, data)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wide/, small/ and large/, and a run of each name of WIDE and GROWN."""
    root = tmp_path_factory.mktemp("shapes")
    prepare(root)
    cases = [overrides(root, "wide", name, "tokenizer.image_size=[32, 48]", *more) for name, more in WIDE.items()]
    cases.append(overrides(root, "small", "small_run"))
    start = f"run.init_from={root / 'small_run'}"
    cases += [
        overrides(root, "large", name, "tokenizer.image_size=64", start, rope_grid) for name, rope_grid in GROWN.items()
    ]
    for case in cases:
        check_data(load_config(TINY, case))
    run_processes(1, [str(WORKER), json.dumps([{"overrides": case, "again": ""} for case in cases])])
    return root


def train_losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def test_the_shards_have_both_sides(root: Path) -> None:
    manifest = json.loads((root / "wide" / "shards" / "manifest.json").read_text())
    assert (manifest["image_size"], manifest["grid"]) == ([32, 48], [4, 6])
    assert "4 x 6 codes of 8 bits, 24 bytes of bits a sample, from images of 32 x 48 pixels" in check(
        "inspect", root / "wide" / "shards"
    )
    square = json.loads((root / "large" / "shards" / "manifest.json").read_text())
    assert (square["image_size"], square["grid"]) == (64, 8)


@pytest.mark.parametrize("name", WIDE)
def test_a_run_is_sampled_and_expanded(root: Path, tmp_path: Path, name: str) -> None:
    assert len(train_losses(root / name)) == STEPS
    check("sample", root / name, "--out", tmp_path / "samples", "--classes", "0,2")
    assert Image.open(tmp_path / "samples" / "class_0002" / "00000.png").size == (48, 32)
    if name != "row_raster":
        return
    check("expand", root / name, "--out", tmp_path / "expanded", "--classes", "2", "--size", "48x72")
    expanded = np.asarray(Image.open(tmp_path / "expanded" / "class_0002" / "00000.png"))
    assert expanded.shape == (48, 72, 3)
    first = np.asarray(Image.open(tmp_path / "samples" / "class_0002" / "00000.png"))
    np.testing.assert_array_equal(expanded[:16, :24], first[:16, :24])  # where no other window reaches


def test_samples_are_judged_by_images_of_any_size(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_mobilenet(tmp_path, monkeypatch)
    samples = ["evaluate", tmp_path / "samples", "--features", "mobilenet_v2"]
    check("sample", root / "row_raster", "--out", tmp_path / "samples", "--per-class", "2")
    said = check(*samples, "--reference", root / "large" / "images" / "validation")
    assert "FD-MobileNetV2" in said
    said = check(*samples, "--images", root / "wide" / "images", "--tokenizer", root / "wide" / "tokenizer")
    assert "reconstructions" in said


def test_a_picture_is_cropped_to_the_shape_and_edited(root: Path, tmp_path: Path) -> None:
    picture, run = root / "large" / "images" / "train" / "coffee" / "001.png", root / "row_raster"
    said = check("edit", run, "--out", tmp_path, "--image", picture, "--classes", "1", "--region", "20,30,40,34")
    assert str(tmp_path / "grid.png") in said
    drawn, kept = (np.asarray(Image.open(tmp_path / name)) for name in ("class_0001/00000.png", "kept.png"))
    assert drawn.shape == kept.shape == (32, 48, 3)
    # 64 x 64 pixels become 48 x 48, of which the middle 32 rows stay: 15 <= x < 30 and 14.5 <= y < 17.5, of cells of 8.
    grey = (kept == 128).all(axis=2).reshape(4, 8, 6, 8).all(axis=(1, 3))
    assert np.argwhere(grey).tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]


def test_a_tokenizer_is_reported_on(root: Path, tmp_path: Path) -> None:
    folder = root / "wide"
    said = check(
        *("tokenizer", "report", folder / "tokenizer", "--images", folder / "images", "--out", tmp_path / "report"),
        *("--features", "none"),
    )
    assert "384 codes" in said  # 16 images of 4 x 6


def test_a_run_is_measured(root: Path) -> None:
    assert "bits" in check("evaluate", root / "column_zigzag")


def test_a_larger_image_begins_with_the_weights_of_a_smaller_one(root: Path) -> None:
    losses = {name: train_losses(root / name) for name in GROWN}
    for name in GROWN:
        assert len(losses[name]) == STEPS
        assert all(math.isfinite(loss) for loss in losses[name])
    assert losses["integer"][0] != losses["interpolated"][0], "the same weights at the same places"


def test_positions_of_a_larger_image_are_those_of_the_smaller_one_and_more_or_between_them(root: Path) -> None:
    small, *large = (load_config(root / name / "config.yaml") for name in ("small_run", *GROWN))
    tables = [rope_table(config.model, config.tokenizer.grid, torch.device("cpu")) for config in (small, *large)]
    cells = [divmod(cell, 4) for cell in range(15)]  # the last of 16 is only predicted; the class comes first
    of_small, integer, interpolated = (
        table[[1 + apart * (side * row + column) for row, column in cells]]
        for table, side, apart in zip(tables, (4, 8, 8), (1, 1, 2), strict=True)
    )
    assert torch.equal(integer, of_small)
    assert torch.equal(interpolated, of_small)

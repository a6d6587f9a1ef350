"""`elm sample` on a run that was really trained, if only for a moment."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Result, elm, refused
from PIL import Image

from elm_dist.checkpoint.run_folder import choose_checkpoint
from elm_dist.config_file import load_config
from elm_dist.sampling.painter import load_model_to_sample

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
QUALITY = BENCHMARKS / "sampling_quality.py"
LOOKAHEAD = BENCHMARKS / "lookahead.py"


@pytest.fixture
def run(trained: Path) -> Path:
    return trained


def sample(run: Path, out: Path, *options: str) -> Result:
    return elm("sample", str(run), "--out", str(out), *options)


def refuse(run: Path, out: Path, *options: str) -> str:
    return refused("sample", str(run), "--out", str(out), *options)


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def read_images(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.png"))}


def test_every_class_is_drawn_as_files_and_as_a_grid(run: Path, tmp_path: Path) -> None:
    result = sample(run, tmp_path, "--per-class", "2")
    assert result.code == 0, result
    expected = [f"class_{label:04d}/{index:05d}.png" for label in range(4) for index in range(2)]
    assert list(read_images(tmp_path)) == [*expected, "grid.png"]
    assert np.asarray(Image.open(tmp_path / expected[0])).shape == (32, 32, 3)
    assert str(tmp_path / "grid.png") in result.stdout


def test_an_image_depends_on_its_class_number_and_seed_alone(run: Path, tmp_path: Path) -> None:
    for name, options in {
        "one": ["--classes", "1,3", "--per-class", "3"],
        "two": ["--classes", "3", "--per-class", "2", "--batch-size", "1"],
        "three": ["--classes", "3", "--per-class", "2", "--seed", "1"],
    }.items():
        assert sample(run, tmp_path / name, *options).code == 0
    one, two, three = (read_images(tmp_path / name) for name in ("one", "two", "three"))
    for path in ("class_0003/00000.png", "class_0003/00001.png"):
        assert one[path] == two[path]
        assert one[path] != three[path]
    assert one["class_0003/00000.png"] != one["class_0003/00001.png"]


def test_averaged_weights_are_drawn_from_unless_asked_otherwise(run: Path, tmp_path: Path) -> None:
    assert sample(run, tmp_path / "ema", "sampling.weights=ema").code == 0
    assert sample(run, tmp_path / "default").code == 0
    assert sample(run, tmp_path / "raw", "sampling.weights=raw").code == 0
    ema, default, raw = (read_images(tmp_path / name) for name in ("ema", "default", "raw"))
    assert ema == default
    assert ema != raw


def test_a_class_that_is_not_there_is_refused(run: Path, tmp_path: Path) -> None:
    said = refuse(run, tmp_path / "out", "--classes", "1,4")
    assert said == "error: --classes: there is no class 4; this run has classes 0 to 3\n"
    assert not (tmp_path / "out").exists()


def test_classes_that_are_no_numbers_are_refused(run: Path, tmp_path: Path) -> None:
    said = refuse(run, tmp_path, "--classes", "cat")
    assert said == "error: --classes: 'cat' is not a list of class numbers; write them as in 207,360\n"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    said = refuse(tmp_path, tmp_path / "out")
    assert f"error: {tmp_path} is not a run: it has no config.yaml; give the run.directory of a training" in said


def test_a_run_without_a_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(run / "config.yaml", bare)
    said = refuse(bare, tmp_path / "out")
    assert f"error: {bare} has no checkpoint; it has none yet: train it further, or name one that is there" in said


def test_a_tokenizer_of_another_shape_is_refused(run: Path, tmp_path: Path) -> None:
    said = refuse(run, tmp_path / "out", "tokenizer.res_blocks=3")
    assert "this tokenizer is not the one that the configuration describes: res_blocks is 1 there and 3 here" in said


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("int8", [False, True])
def test_weights_are_kept_as_asked(run: Path, tmp_path: Path, precision: str, int8: bool) -> None:
    overrides = [f"sampling.precision={precision}", f"sampling.weights_int8={int8}"]
    model = load_model_to_sample(choose_checkpoint(run, None), load_config(run / "config.yaml", overrides))
    floats = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
    assert floats == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert (model.block_1.attention.qkv.weight.dtype == torch.int8) == int8
    assert not model.training
    assert sample(run, tmp_path, *overrides).code == 0
    assert json.loads((tmp_path / "sampling.json").read_text())["sampling.weights_int8"] == int8


def test_the_checkpoint_can_be_named(run: Path, tmp_path: Path) -> None:
    assert sample(run, tmp_path / "three", "--step", "3").code == 0
    assert sample(run, tmp_path / "newest").code == 0
    assert read_images(tmp_path / "three") != read_images(tmp_path / "newest")
    assert [json.loads((tmp_path / name / "sampling.json").read_text())["step"] for name in ("three", "newest")] == [
        3,
        6,
    ]
    said = refuse(run, tmp_path / "five", "--step", "5")
    assert (
        "has no checkpoint of step 5; it has those of steps 3, 6: train it further, or name one that is there" in said
    )


def test_images_that_are_there_are_kept_and_missing_ones_are_drawn(run: Path, tmp_path: Path) -> None:
    options = ["--per-class", "2", "--batch-size", "3", "--npz"]
    assert sample(run, tmp_path, *options, "--step", "3").code == 0
    files = contents(tmp_path)
    for name in ("class_0001/00000.png", "class_0003/00001.png", "grid.png", "samples.npz"):
        (tmp_path / name).unlink()
    kept = (tmp_path / "class_0000/00000.png").stat().st_mtime_ns
    assert sample(run, tmp_path, *options).code == 0  # of the same step, though there is a newer one
    assert contents(tmp_path) == files
    assert (tmp_path / "class_0000/00000.png").stat().st_mtime_ns == kept


def test_the_benchmark_says_what_other_precisions_change(run: Path) -> None:
    command = [sys.executable, str(QUALITY), str(run), "--samples", "8", "--batch", "4"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    first, heading, *rows = result.stdout.splitlines()
    assert first == "8 validation samples, step 6"
    assert heading.split() == ["bits/code", "bit", "KL,", "nats", "same", "likeliest", "same", "draw"]
    cells = {name: row.split()[-4:] for name, row in zip(("fp32", "int8", "bf16", "both"), rows, strict=True)}
    assert cells["fp32"][1:] == ["0.00e+00", "100.00%", "100.00%"]
    assert all(0 < float(cells[name][1]) < 1e-3 for name in ("int8", "bf16", "both"))


def test_several_positions_at_once_draw_the_same_images(run: Path, tmp_path: Path) -> None:
    options = ["--per-class", "2", "--batch-size", "3", "sampling.cfg_interval=[0.2, 0.9]"]
    for lookahead in (1, 4):
        assert sample(run, tmp_path / str(lookahead), *options, f"sampling.lookahead={lookahead}").code == 0
    one, several = (read_images(tmp_path / name) for name in ("1", "4"))
    assert len(one) == 9
    assert several == one


def test_the_benchmark_says_what_several_positions_at_once_save(run: Path) -> None:
    command = [sys.executable, str(LOOKAHEAD), str(run), "--images", "3", "--windows", "3,16", "--batches", "2"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    first, heading, *rows = result.stdout.splitlines()
    assert first == "16 positions, step 6"
    assert heading.split() == ["settings", "batch", "window", "passes", "CPU", "time", "same", "images"]
    cells = [row.split()[-5:] for row in rows]
    assert [row[:2] + row[-1:] for row in cells] == [["2", window, "100%"] for _ in range(3) for window in ("3", "16")]
    assert all(1 + 15 / int(window) <= float(passes) <= 16 for _, window, passes, _, _ in cells)
    assert all(float(ratio) > 0 for *_, ratio, _ in cells)


def test_a_folder_never_holds_images_of_two_settings(run: Path, tmp_path: Path) -> None:
    assert sample(run, tmp_path).code == 0
    before = contents(tmp_path)
    said = refuse(run, tmp_path, "sampling.top_k=3", "--seed", "1")
    assert said == (
        f"error: {tmp_path} holds images of other settings: sampling.top_k is 0 there and 3 here, seed is 0 there and "
        f"1 here; give another --out, or delete {tmp_path} to draw anew\n"
    )
    assert "step is 6 there and 3 here, weights_sha256 is " in refuse(run, tmp_path, "--step", "3")
    assert "sampling.weights is ema there and raw here, weights_sha256 is " in refuse(
        run, tmp_path, "sampling.weights=raw"
    )
    assert contents(tmp_path) == before


def test_images_of_unknown_settings_are_refused(run: Path, tmp_path: Path) -> None:
    assert sample(run, tmp_path).code == 0
    (tmp_path / "sampling.json").write_text("{")
    assert f"error: {tmp_path / 'sampling.json'} is damaged (Expecting property name" in refuse(run, tmp_path)
    (tmp_path / "sampling.json").unlink()
    assert f"error: {tmp_path} holds images, but no sampling.json that says of what; give" in refuse(run, tmp_path)


def test_the_file_for_scores_holds_what_the_images_hold(run: Path, tmp_path: Path) -> None:
    assert sample(run, tmp_path, "--classes", "2,0", "--per-class", "3", "--npz").code == 0
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as file:
        assert list(file) == ["arr_0", "arr_1"]
        images, labels = file["arr_0"], file["arr_1"]
    assert (images.dtype, images.shape) == (np.uint8, (6, 32, 32, 3))
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 0, 2, 0, 2, 0]  # in turns, so that every stretch has all classes alike
    for index, (label, image) in enumerate(zip(labels, images, strict=True)):
        path = tmp_path / f"class_{label:04d}" / f"{index // 2:05d}.png"
        assert (np.asarray(Image.open(path)) == image).all()
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert (grid[6:102:3, 6:102:3] == images[0]).all()  # class 2 is the first row, enlarged by 3
    assert (grid[6:102:3, 108:204:3] == images[2]).all()


def test_an_unknown_preset_is_refused(run: Path, tmp_path: Path) -> None:
    assert "error: --preset: there is no paper; there are elm_2b_2-12, " in refuse(run, tmp_path, "--preset", "paper")


@pytest.mark.parametrize(
    "override", ["top_p=0", "top_p=1.1", "lookahead=0", "cfg_interval=[0.5, 0.5]", "cfg_interval=[0, 2]"]
)
def test_settings_out_of_range_are_refused(run: Path, tmp_path: Path, override: str) -> None:
    said = refuse(run, tmp_path / "out", f"sampling.{override}")
    assert f"sampling.{override.partition('=')[0]}" in said
    assert not (tmp_path / "out").exists()


def test_more_entries_than_a_sub_code_has_are_refused(run: Path, tmp_path: Path) -> None:
    assert "sampling.top_k" in refuse(run, tmp_path / "out", "sampling.top_k=17")


def test_a_negative_temperature_is_refused(run: Path, tmp_path: Path) -> None:
    assert "sampling.temperature" in refuse(run, tmp_path / "out", "sampling.temperature=-1")

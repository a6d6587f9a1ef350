"""`elm sample` on a run that was really trained, if only for a moment."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import Result, elm, refused
from PIL import Image
from trained_run import train_tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny_run(tmp_path_factory.mktemp("trained"))


def sample(run: Path, out: Path, *options: str) -> Result:
    return elm("sample", str(run), "--out", str(out), *options)


def refuse(run: Path, out: Path, *options: str) -> str:
    return refused("sample", str(run), "--out", str(out), *options)


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
    assert f"error: {bare} has no checkpoint yet; train it, and set checkpoint.every to have one sooner" in said


def test_a_tokenizer_of_another_shape_is_refused(run: Path, tmp_path: Path) -> None:
    said = refuse(run, tmp_path / "out", "tokenizer.res_blocks=3")
    assert "this tokenizer is not the one that the configuration describes: res_blocks is 1 there and 3 here" in said


def test_more_entries_than_a_sub_code_has_are_refused(run: Path, tmp_path: Path) -> None:
    assert "sampling.top_k" in refuse(run, tmp_path / "out", "sampling.top_k=17")


def test_a_negative_temperature_is_refused(run: Path, tmp_path: Path) -> None:
    assert "sampling.temperature" in refuse(run, tmp_path / "out", "sampling.temperature=-1")

"""`elm expand`, `elm edit` and `elm interpolate` on a run that was really trained, if only for a moment."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import elm, refused
from PIL import Image


@pytest.fixture
def run(trained: Path) -> Path:
    return trained


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 48 x 32 pixels, whose centre is what the tokenizer sees."""
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((48, 32), Image.Resampling.BICUBIC).save(path)
    return path


def draw(command: str, run: Path, out: Path, *options: str) -> str:
    result = elm(command, str(run), "--out", str(out), *options)
    assert result.code == 0, result
    return result.stdout


def refuse(command: str, run: Path, out: Path, *options: str) -> str:
    said = refused(command, str(run), "--out", str(out), *options)
    assert not list(out.rglob("*.png")), "nothing is drawn"
    return said


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_expand_begins_with_the_image_that_sample_draws(run: Path, tmp_path: Path) -> None:
    said = draw("expand", run, tmp_path / "wide", "--classes", "1,3", "--size", "40x64", "--per-class", "2")
    assert str(tmp_path / "wide" / "grid.png") in said
    draw("sample", run, tmp_path / "square", "--classes", "1,3", "--per-class", "2")
    for name in ("class_0001/00001.png", "class_0003/00000.png"):
        wide, square = read(tmp_path / "wide" / name), read(tmp_path / "square" / name)
        assert wide.shape == (40, 64, 3)
        assert np.array_equal(wide[:8, :16], square[:8, :16]), "where no other window reaches"
    settings = json.loads((tmp_path / "wide" / "sampling.json").read_text())
    assert settings["command"] == "expand"
    assert (settings["height"], settings["width"], settings["overlap"]) == (40, 64, 16)
    assert settings["weights_sha256"]


def test_expand_starts_from_a_picture(run: Path, picture: Path, tmp_path: Path) -> None:
    draw("expand", run, tmp_path, "--classes", "1", "--size", "32x48", "--image", str(picture))
    assert read(tmp_path / "class_0001" / "00000.png").shape == (32, 48, 3)
    assert json.loads((tmp_path / "sampling.json").read_text())["image_sha256"]


def test_edit_draws_a_region_anew(run: Path, picture: Path, tmp_path: Path) -> None:
    options = ("--image", str(picture), "--region", "24,8,32,16", "--classes", "1,2", "--per-class", "2")
    said = draw("edit", run, tmp_path, *options)
    assert str(tmp_path / "grid.png") in said
    assert np.array_equal(read(tmp_path / "picture.png"), read(picture)[:, 8:40]), "the centre"
    kept = read(tmp_path / "kept.png")
    assert (kept[8:16, 16:24] == 128).all()
    assert not np.array_equal(read(tmp_path / "class_0001" / "00000.png"), read(tmp_path / "class_0001" / "00001.png"))


def test_a_mask_and_a_region_of_the_same_cells_are_one_edit(run: Path, picture: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (48, 32), 0)
    mask.paste(255, (25, 9, 27, 10))
    mask.save(tmp_path / "mask.png")
    options = ("--image", str(picture), "--classes", "1")
    draw("edit", run, tmp_path / "mask", *options, "--mask", str(tmp_path / "mask.png"))
    draw("edit", run, tmp_path / "region", *options, "--region", "24,8,32,16")
    name = "class_0001/00000.png"
    assert (tmp_path / "mask" / name).read_bytes() == (tmp_path / "region" / name).read_bytes()


def test_edit_keeps_the_first_codes(run: Path, picture: Path, tmp_path: Path) -> None:
    options = ("--image", str(picture), "--classes", "1")
    draw("edit", run, tmp_path / "half", *options, "--keep", "8")
    draw("edit", run, tmp_path / "none", *options, "--keep", "0")
    draw("sample", run, tmp_path / "sample", "--classes", "1")
    name = "class_0001/00000.png"
    assert (tmp_path / "none" / name).read_bytes() == (tmp_path / "sample" / name).read_bytes()
    assert (read(tmp_path / "half" / "kept.png")[16:] == 128).all()


def test_interpolate_has_the_plain_classes_at_its_ends(run: Path, tmp_path: Path) -> None:
    draw("interpolate", run, tmp_path / "between", "--between", "3,1", "--rows", "2")
    draw("sample", run, tmp_path / "sample", "--classes", "3", "--per-class", "2")
    names = ["0.0000", "0.1000", "0.3000", "0.5000", "0.7000", "0.9000", "1.0000"]
    assert sorted(path.stem for path in (tmp_path / "between" / "row_00001").iterdir()) == names
    first = tmp_path / "between" / "row_00001" / "0.0000.png"
    assert first.read_bytes() == (tmp_path / "sample" / "class_0003" / "00001.png").read_bytes()


def test_settings_of_another_kind_are_refused(run: Path, picture: Path, tmp_path: Path) -> None:
    draw("expand", run, tmp_path, "--classes", "1", "--size", "32x40")
    said = refused("expand", str(run), "--out", str(tmp_path), "--classes", "1", "--size", "32x48")
    assert "holds images of other settings: width is 40" in said


EXPAND = ("--classes", "1", "--size", "32x48")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--classes", "1", "--size", "wide"),
            "'wide' is not height x width in pixels; write it as in 256x1024",
        ),
        (("--classes", "1", "--size", "16x64"), "16x64 is smaller than an image of this run, 32x32 pixels"),
        (("--classes", "9", "--size", "32x64"), "--classes: there is no class 9; this run has classes 0 to 3"),
        (("--classes", "a", "--size", "32x64"), "--classes: 'a' is not a list of class numbers"),
        ((*EXPAND, "--overlap", "5"), "--overlap: 5 is not allowed; give a multiple of 8 pixels from 8 to 24"),
        ((*EXPAND, "--image", "no.png"), "no.png"),
        ((*EXPAND, "sampling.top_k=99"), "top_k"),
        ((*EXPAND, "sampling.temperature=-1"), "sampling.temperature"),
    ],
)
def test_expansions_that_are_refused(run: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    assert message in refuse("expand", run, tmp_path / "out", *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give one of --region, --mask and --keep"),
        (("--keep", "3", "--region", "0,0,8,8"), "give one of --region, --mask and --keep"),
        (("--keep", "16"), "--keep: 16 is not allowed; an image has 16 codes: keep 0 to 15 of them"),
        (("--region", "0,0,8"), "--region: '0,0,8' is not left,top,right,bottom in pixels"),
        (("--region", "0,0,99,8"), "is no region of the picture, which is 48 pixels wide and 32 high"),
        (("--region", "0,0,8,8"), "there is nothing to draw"),  # the picture's centre begins at 8
        (("--mask", "black.png"), "there is nothing to draw"),
        (("--mask", "small.png"), "small.png is 8x8 pixels and the picture 48x32; make them of one size"),
        (("--mask", "none.png"), "none.png"),
    ],
)
def test_edits_that_are_refused(
    run: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (48, 32), 0).save("black.png")
    Image.new("L", (8, 8), 255).save("small.png")
    said = refuse("edit", run, tmp_path / "out", "--image", str(picture), "--classes", "1", *options)
    assert message in said


def test_a_file_that_is_no_picture(run: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    options = ("--image", str(tmp_path / "text.png"), "--classes", "1", "--keep", "3")
    assert "text.png: this image cannot be read" in refuse("edit", run, tmp_path / "out", *options)


@pytest.mark.parametrize(
    ("between", "message"),
    [
        ("1,1", "--between: give two different classes, as in 207,360, and not 1 twice"),
        ("1", "--between: '1' is not two class numbers"),
        ("1,9", "--between: there is no class 9"),
    ],
)
def test_interpolations_that_are_refused(run: Path, tmp_path: Path, between: str, message: str) -> None:
    assert message in refuse("interpolate", run, tmp_path / "out", "--between", between)


def test_a_run_without_a_checkpoint(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(run / "config.yaml", bare)
    assert "has no checkpoint; it has none yet" in refuse("expand", bare, tmp_path / "out", *EXPAND)

"""What the page draws is what the command line that it shows draws, and wishes that cannot be are answered in words."""

import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import elm, refused
from PIL import Image

from elm_dist.errors import ConfigError
from elm_dist.sampling.studio import MOST, Drawing, Studio

OTHERWISE = {"cfg_schedule": "cos", "cfg_scale": 2.5, "temperature": 1e-05 + 0.9, "top_k": 7, "top_p": 0.8}


@pytest.fixture(scope="module")
def studio(trained: Path) -> Iterator[Studio]:
    studio = Studio(trained, preset="elm_l_2-8", step=3, overrides=["sampling.cfg_interval=[0.2, 1.0]"])
    yield studio
    studio.close()


def last_frame(drawing: Drawing) -> np.ndarray:
    *_, last = drawing.frames
    assert last is not None
    assert len(last.pictures) == len(drawing.captions)
    return last.pictures


def in_order_of_drawing(path: Path) -> tuple[Any, ...]:
    """Images of classes are drawn number by number, rows of mixtures row by row."""
    return (path.name, path.parent.name) if path.parent.name.startswith("class") else (path.parent.name, path.name)


@pytest.mark.parametrize(
    "draw",
    [
        lambda studio: studio.sample([0, 2], 3, 7, {}),
        lambda studio: studio.sample([1], 2, 0, OTHERWISE),
        lambda studio: studio.expand([1, 3], 2, 40, 56, 8, 7, {"cfg_scale": 3.5}),
        lambda studio: studio.interpolate(2, 1, 3, 2, 7, {"temperature": 0.7}),
    ],
    ids=["sample", "otherwise", "expand", "interpolate"],
)
def test_the_command_makes_the_same_files(
    studio: Studio, draw: Callable[[Studio], Drawing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = draw(studio)
    pictures = last_frame(drawing)
    program, *arguments = shlex.split(drawing.command)
    assert program == "elm"
    monkeypatch.chdir(tmp_path)
    result = elm(*arguments)
    assert result.code == 0, result
    files = sorted((tmp_path / "samples").rglob("*/*.png"), key=in_order_of_drawing)
    assert len(files) == len(pictures)
    for path, picture in zip(files, pictures, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), picture), path


def test_the_command_says_no_more_than_is_needed(trained: Path) -> None:
    studio = Studio(trained)
    command = studio.sample([2, 0], 3, 7, {"cfg_scale": studio.painter.config.sampling.cfg_scale}).command
    assert command == f"elm sample {trained} --out samples --classes 2,0 --per-class 3 --seed 7 --step 6"
    studio.close()


def test_classes_have_the_names_of_the_shards_or_else_numbers(trained: Path, tmp_path: Path, studio: Studio) -> None:
    folders = sorted(path.name for path in (trained.parent / "images" / "train").iterdir())
    assert studio.class_names == folders
    elsewhere = Studio(trained, overrides=[f"data.shards={tmp_path}"])
    assert elsewhere.class_names == [f"class {number}" for number in range(4)]
    elsewhere.close()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (lambda s: s.sample([], 1, 0, {}), "classes: none is chosen; choose one or more"),
        (lambda s: s.sample([4], 1, 0, {}), "classes: there is no class 4; this run has classes 0 to 3"),
        (lambda s: s.sample([0], None, 0, {}), "images of each: nothing is not allowed; give a whole number, 1 or"),
        (lambda s: s.sample([0], 1, -1, {}), "seed: -1 is not allowed; give a whole number, 0 or more"),
        (lambda s: s.sample([0], 1, 1.5, {}), "seed: 1.5 is not allowed"),
        (lambda s: s.sample([0], 1, 0, {"top_p": 3}), "sampling.top_p: 3 is not allowed; give at most 1"),
        (lambda s: s.sample([0], 1, 0, {"top_k": None}), "sampling.top_k: 'None' is not allowed; give a whole number"),
        (lambda s: s.sample([0], 1, 0, {"top_k": 17}), "sampling.top_k: 17 is more than the 16 entries"),
        (
            lambda s: s.sample([0, 1], 17, 0, {}),
            f"34 pictures are more than the {MOST} of a page; ask for fewer, or of",
        ),
        (lambda s: s.expand([0], 1, 33, 32, 16, 0, {}), "33x32 is no multiple of a cell"),
        (lambda s: s.expand([0], 1, 32, 32, 0, 0, {}), "overlap: 0 is not allowed"),
        (lambda s: s.interpolate(1, 1, 5, 1, 0, {}), "classes: choose two different ones to go from one to the other"),
        (lambda s: s.interpolate(None, 1, 5, 1, 0, {}), "classes: choose two different ones"),
        (lambda s: s.interpolate(4, 1, 5, 1, 0, {}), "classes: there is no class 4"),
        (lambda s: s.interpolate(0, 1, 31, 1, 0, {}), "33 pictures are more than the 32 of a page"),
        (lambda s: s.interpolate(0, 1, 0, 1, 0, {}), "mixtures: 0 is not allowed"),
    ],
)
def test_what_cannot_be_drawn_is_said(studio: Studio, wish: Callable[[Studio], Drawing], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        wish(studio)
    assert message in str(raised.value)


def test_serving_needs_a_run(trained: Path, tmp_path: Path) -> None:
    assert "is not a run" in refused("serve", str(tmp_path))
    shutil.copy(trained / "config.yaml", tmp_path)
    assert "has no checkpoint" in refused("serve", str(tmp_path))


def test_a_port_that_is_taken_is_refused(trained: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("serve", str(trained), "--port", str(port))
    assert f"--port: 127.0.0.1:{port} cannot be used (Address already in use); give another one, or" in said


def test_gradio_that_is_missing_is_asked_for(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "elm_dist.sampling.page", raising=False)
    said = refused("serve", str(trained))
    assert said == "error: `elm serve` needs gradio, which is not installed; pip install 'elm-dist[serve]'\n"

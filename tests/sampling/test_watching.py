"""Frames of canvases that are being drawn: what is missing is grey, and who leaves ends the drawing."""

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from torch import Tensor

from elm_dist.errors import ConfigError
from elm_dist.sampling.canvas import CanvasSize, OnProgress, decode_canvas, expand
from elm_dist.sampling.painter import Painter, load_painter
from elm_dist.sampling.watching import GREY, Easel, Frame

GRID, CELL = 4, 8  # of the tiny run: 32 pixels
SIZE = CanvasSize(GRID, GRID + 2, overlap=2)


@pytest.fixture(scope="module")
def painter(trained: Path) -> Painter:
    return load_painter(trained)


@pytest.fixture
def easel(painter: Painter) -> Iterator[Easel]:
    easel = Easel(painter)
    yield easel
    easel.close()


def draw_slowly(on_progress: OnProgress) -> Tensor:
    """Draw a cell now and then, and never finish."""
    while True:
        on_progress(torch.zeros((1, GRID, GRID, 2), dtype=torch.int64), np.zeros((GRID, GRID), dtype=np.bool_))
        time.sleep(0.001)


def test_pictures_come_row_by_row_and_then_whole(painter: Painter, easel: Easel) -> None:
    labels, seeds = [1, 2, 3], [4, 5, 6]
    frames = [
        frame
        for frame in easel.watch(
            lambda on_progress: expand(painter, labels, seeds, SIZE, on_progress=on_progress), SIZE.overlap, Event()
        )
        if frame is not None
    ]
    *unfinished, last = frames
    assert 1 <= len(unfinished) <= GRID + 2  # a row's worth of cells at least lies between two
    assert unfinished[0].share == 1 / (GRID + 2)  # the first row of the first window, of GRID + 2 columns
    assert all(later.share > frame.share for frame, later in pairwise(frames))
    for frame in unfinished:
        drawn = round(frame.share * GRID * (GRID + 2))
        cells = frame.pictures.reshape(3, GRID, CELL, GRID + 2, CELL, 3).transpose(1, 3, 0, 2, 4, 5)
        assert ((cells == GREY).all(axis=(2, 3, 4, 5))).sum() == GRID * (GRID + 2) - drawn
    whole = decode_canvas(painter, expand(painter, labels, seeds, SIZE), SIZE.overlap)
    assert last.share == 1
    assert np.array_equal(last.pictures, whole)


def test_previews_leave_most_of_the_time_to_drawing(
    painter: Painter, easel: Easel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = painter.tokenizer.images_from_codes

    def decode_slowly(codes: Tensor) -> Tensor:
        time.sleep(0.2)  # longer than all of the drawing takes
        return decode(codes)

    monkeypatch.setattr(painter.tokenizer, "images_from_codes", decode_slowly)
    size = CanvasSize(GRID, GRID, overlap=0)
    watching = easel.watch(lambda on_progress: expand(painter, [0], [0], size, on_progress=on_progress), 0, Event())
    assert [frame.share for frame in watching if frame is not None] == [0.25, 1.0]


def test_who_leaves_ends_the_drawing(easel: Easel) -> None:
    watching = easel.watch(draw_slowly, 0, Event())
    assert next(watching) is None, "a sign of life while there is no row yet"
    watching.close()
    after = easel.watch(lambda on_progress: torch.zeros((1, GRID, GRID, 2), dtype=torch.int64), 0, Event())
    finished = [frame for frame in after if frame is not None]  # it had to wait for the end of the first
    assert [frame.share for frame in finished] == [1.0]


def test_a_drawing_that_is_stopped_ends_without_a_picture(easel: Easel) -> None:
    stop = Event()
    watching = easel.watch(draw_slowly, 0, stop)
    assert next(watching) is None
    stop.set()
    assert [frame for frame in watching if frame is not None] == []


def test_an_easel_that_is_closed_ends_the_drawing(painter: Painter) -> None:
    easel = Easel(painter)
    watching: Iterator[Frame | None] = easel.watch(draw_slowly, 0, Event())
    next(watching)
    easel.close()  # would wait for ever


def test_an_error_of_the_drawing_reaches_who_watches(easel: Easel) -> None:
    def fail(on_progress: OnProgress) -> Tensor:
        raise ConfigError("there is no paint")

    with pytest.raises(ConfigError, match="there is no paint"):
        list(easel.watch(fail, 0, Event()))

"""Canvases of codes: which window draws which cell, that what is there stays, and where pictures come from."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from elm_dist.config import TokenizerConfig
from elm_dist.errors import ConfigError, ImageError
from elm_dist.sampling.canvas import CanvasSize, canvas_size, decode_canvas, expand, fill, window_seed, window_starts
from elm_dist.sampling.generate import Known
from elm_dist.sampling.interpolate import class_mixtures, mixture_shares
from elm_dist.sampling.painter import Painter, load_painter
from elm_dist.sampling.pictures import encode_picture, masked_cells, region_mask

GRID, CELL = 4, 8  # of the tiny run: 32 pixels
NOTHING = np.zeros((GRID, GRID), dtype=np.bool_)


@pytest.fixture(scope="module")
def painter(trained: Path) -> Painter:
    return load_painter(trained, overrides=["sampling.cfg_scale=3"])


def draw(painter: Painter, label: int, seed: int, known: Known | None = None) -> Tensor:
    return painter.draw([label], [seed], known=known).unflatten(1, (GRID, GRID))


def test_a_canvas_of_the_grid_is_the_image_that_is_sampled(painter: Painter) -> None:
    canvas = expand(painter, [1, 2], [11, 12], CanvasSize(GRID, GRID, overlap=2))
    assert torch.equal(canvas, painter.draw([1, 2], [11, 12]).unflatten(1, (GRID, GRID)))
    assert np.array_equal(decode_canvas(painter, canvas, 2), painter.decode(canvas.flatten(1, 2)))


def test_each_window_continues_what_is_there(painter: Painter) -> None:
    """The second window to the right sees the two columns that it shares with the first, and draws the others."""
    canvas = expand(painter, [1], [11], CanvasSize(GRID, GRID + 2, overlap=2))
    first = draw(painter, 1, 11)
    assert torch.equal(canvas[:, :, :GRID], first)
    given = torch.zeros_like(first)
    given[:, :, :2] = first[:, :, 2:]
    known = Known(given.flatten(1, 2), np.array(([True] * 2 + [False] * 2) * GRID))
    assert torch.equal(canvas[:, :, 2:], draw(painter, 1, window_seed(11, 0, 2), known))


def test_every_cell_is_drawn_once_and_stays(painter: Painter) -> None:
    seen: list[tuple[Tensor, NDArray[np.bool_]]] = []
    size = CanvasSize(GRID + 3, GRID + 5, overlap=1)
    canvas = expand(painter, [0], [5], size, on_progress=lambda codes, done: seen.append((codes.clone(), done.copy())))
    for (codes, done), (_, later) in pairwise(seen):
        assert (later >= done).all()
        assert torch.equal(codes[:, done], canvas[:, done])
    assert seen[-1][1].all()
    assert len(seen) == size.rows * size.columns


def test_a_picture_does_not_depend_on_the_others_of_its_batch(painter: Painter) -> None:
    size = CanvasSize(GRID + 2, GRID + 2, overlap=2)
    together = expand(painter, [1, 2, 3], [11, 12, 13], size)
    assert torch.equal(together[1:2], expand(painter, [2], [12], size))
    assert not torch.equal(together[1:2], expand(painter, [2], [99], size))


def test_it_starts_from_given_codes(painter: Painter) -> None:
    start = draw(painter, 3, 77)
    canvas = expand(painter, [1, 2], [11, 12], CanvasSize(GRID, 2 * GRID, overlap=3), start=start)
    assert torch.equal(canvas[:, :, :GRID], start.expand(2, -1, -1, -1))
    assert not torch.equal(canvas[0, :, GRID:], canvas[1, :, GRID:])


def test_an_edit_leaves_the_rest_as_it_is(painter: Painter) -> None:
    original, is_known = draw(painter, 1, 11), ~NOTHING
    is_known[1:3, 1:3] = False
    edited = fill(painter, [2, 3], [21, 22], original, is_known)
    assert torch.equal(edited[:, is_known], original[:, is_known].expand(2, -1, -1))
    assert not torch.equal(edited[0], original[0])
    assert torch.equal(original, draw(painter, 1, 11)), "and the original, too"


def test_the_ends_of_an_interpolation_are_the_plain_classes(painter: Painter) -> None:
    shares = mixture_shares(3)
    mixtures = class_mixtures((1, 3), shares, painter.config.model.num_classes)
    codes = painter.draw(mixtures, [11] * len(shares))
    assert torch.equal(codes[[0, -1]], painter.draw([1, 3], [11, 11]))


def test_the_steps_of_the_paper() -> None:
    assert mixture_shares(5) == pytest.approx([0, 0.1, 0.3, 0.5, 0.7, 0.9, 1])


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_shares_lie_between_nothing_and_all(share: float) -> None:
    with pytest.raises(ConfigError, match=f"a share of a class is a number from 0 to 1, and {share:g} is none"):
        class_mixtures((0, 1), [share], 4)


@pytest.mark.parametrize(
    ("length", "overlap", "starts"), [(16, 8, [0]), (24, 8, [0, 8]), (25, 8, [0, 8, 9]), (64, 1, [0, 15, 30, 45, 48])]
)
def test_windows_cover_a_side_and_the_last_ends_with_it(length: int, overlap: int, starts: list[int]) -> None:
    assert window_starts(length, 16, overlap) == starts


def test_windows_are_blended_where_they_overlap(painter: Painter) -> None:
    canvas = expand(painter, [1], [11], CanvasSize(GRID, GRID + 2, overlap=2))
    picture = decode_canvas(painter, canvas, 2)[0].astype(int)
    left, right = (painter.decode(canvas[:, :, start : start + GRID].flatten(1, 2))[0].astype(int) for start in (0, 2))
    assert np.array_equal(picture[:, : 2 * CELL], left[:, : 2 * CELL])
    assert np.array_equal(picture[:, GRID * CELL :], right[:, 2 * CELL :])
    weight = ((np.arange(2 * CELL) + 0.5) / (2 * CELL))[None, :, None]
    blended = left[:, 2 * CELL :] * (1 - weight) + right[:, : 2 * CELL] * weight
    assert np.abs(picture[:, 2 * CELL : GRID * CELL] - blended).max() <= 1.01, "but for rounding"


def test_a_picture_becomes_the_codes_that_its_tokenizer_gives(painter: Painter) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    codes = encode_picture(painter, Image.fromarray(pixels))
    assert codes.shape == (1, GRID, GRID, 2)
    direct = painter.tokenizer.encode(torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).float() / 255) > 0.5
    first = [int("".join(str(int(bit)) for bit in bits), 2) for bits in direct[0, :, 0, 0].view(2, 4)]
    assert codes[0, 0, 0].tolist() == first


def test_a_region_marks_the_cells_that_it_touches() -> None:
    tokenizer = TokenizerConfig(directory=Path(), image_size=32, patch_size=8, channel_multipliers=(1,))
    cells = masked_cells(tokenizer, region_mask((32, 32), (8, 0, 17, 8)))
    assert np.argwhere(cells).tolist() == [[0, 1], [0, 2]]


def test_a_region_is_cropped_as_the_picture_is() -> None:
    tokenizer = TokenizerConfig(directory=Path(), image_size=[16, 32], patch_size=8, channel_multipliers=(1,))
    # A picture of 48 x 48 becomes 32 x 32, whose middle 16 rows are the image: pixels 12 to 35 of the picture.
    cells = masked_cells(tokenizer, region_mask((48, 48), (26, 26, 30, 30)))
    assert np.argwhere(cells).tolist() == [[1, 2]]
    with pytest.raises(ImageError, match="leaves no white in the centre of the picture"):
        masked_cells(tokenizer, region_mask((48, 48), (0, 0, 48, 8)))


@pytest.mark.parametrize("region", [(8, 8, 8, 16), (0, 0, 40, 8), (-1, 0, 8, 8), (16, 0, 8, 8)])
def test_regions_that_are_none(region: tuple[int, int, int, int]) -> None:
    with pytest.raises(ImageError, match="is no region of the picture, which is 32 pixels wide and 24 high"):
        region_mask((32, 24), region)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((30, 64, None), "30x64 is no multiple of a cell, 8 pixels; the nearest is 32x64"),
        ((24, 64, None), "24x64 is smaller than an image of this run, 32x32 pixels"),
        ((32, 64, 4), "--overlap: 4 is not allowed; give a multiple of 8 pixels from 8 to 24"),
        ((32, 64, 32), "--overlap: 32 is not allowed"),
        ((32, 64, 0), "--overlap: 0 is not allowed"),
    ],
)
def test_sizes_that_are_refused(size: tuple[int, int, int | None], message: str) -> None:
    tokenizer = TokenizerConfig(directory=Path(), image_size=32, patch_size=8, channel_multipliers=(1,))
    with pytest.raises(ConfigError, match=message):
        canvas_size(tokenizer, *size)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((30, 64, None), "30x64 is no multiple of a cell, 8 pixels; the nearest is 32x64"),
        ((33, 40, None), "33x40 is no multiple of a cell, 8 pixels; the nearest is 32x48"),
        ((48, 40, None), "48x40 is smaller than an image of this run, 32x48 pixels"),
        ((24, 48, None), "24x48 is smaller than an image of this run, 32x48 pixels"),
        ((32, 64, 32), "--overlap: 32 is not allowed; give a multiple of 8 pixels from 8 to 24"),
    ],
)
def test_sizes_that_images_that_are_not_square_refuse(size: tuple[int, int, int | None], message: str) -> None:
    tokenizer = TokenizerConfig(directory=Path(), image_size=[32, 48], patch_size=8, channel_multipliers=(1,))
    assert canvas_size(tokenizer, 32, 96) == CanvasSize(4, 12, 2)
    with pytest.raises(ConfigError, match=message):
        canvas_size(tokenizer, *size)


def test_half_an_image_overlaps_by_default() -> None:
    tokenizer = TokenizerConfig(directory=Path(), image_size=32, patch_size=8, channel_multipliers=(1,))
    assert canvas_size(tokenizer, 32, 64) == CanvasSize(4, 8, 2)

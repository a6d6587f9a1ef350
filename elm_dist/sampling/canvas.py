"""Pictures larger than the model's grid, and pictures with holes: windows of that grid slide over a canvas of codes.

A canvas is sub-tokens (batch, rows, columns, subtokens), int64. A window sees every cell that is there already and
draws the others in raster order, so the last columns and rows of what is there are the prefix of what comes next (the
paper streams images by such prefixes). A cell conditions only what follows it in raster order within a window: what is
drawn in a hole fits what lies above and to the left of it, and cannot know what lies below.

Knows nothing of files; `pictures.py` reads those.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.codes.packing import subtokens_to_bits
from elm_dist.config import SamplingConfig, TokenizerConfig
from elm_dist.errors import ConfigError
from elm_dist.randomness import derive_seed
from elm_dist.sampling.generate import Known
from elm_dist.sampling.painter import Painter

# What watches a canvas grow: it gets the canvas, which must be copied to be kept, and which cells (rows, columns) are
# done, after every position of a window.
OnProgress = Callable[[Tensor, NDArray[np.bool_]], None]


class CanvasSize(NamedTuple):
    """A canvas, and how many cells of a window's side lie on what the window before it drew; all in cells."""

    rows: int
    columns: int
    overlap: int


def canvas_size(tokenizer: TokenizerConfig, height: int, width: int, overlap: int | None = None) -> CanvasSize:
    """Return the canvas of a picture of height x width pixels; `overlap`, in pixels, is half an image by default.

    Raises ConfigError for a size or an overlap that is no multiple of a cell, a picture smaller than the tokenizer's,
    and an overlap of nothing or of a whole image.
    """
    cell, image = tokenizer.downsampling, tokenizer.image_size
    shorter = min(image)  # windows overlap alike in both directions
    overlap = min(tokenizer.grid) // 2 * cell if overlap is None else overlap
    if height % cell or width % cell:
        sides = zip((height, width), image, strict=True)
        near = "x".join(str(max(least, round(side / cell) * cell)) for side, least in sides)
        raise ConfigError(f"--size: {height}x{width} is no multiple of a cell, {cell} pixels; the nearest is {near}")
    if height < image.height or width < image.width:
        raise ConfigError(
            f"--size: {height}x{width} is smaller than an image of this run, {image.height}x{image.width} pixels; give "
            "at least that"
        )
    if overlap % cell or not cell <= overlap < shorter:
        raise ConfigError(
            f"--overlap: {overlap} is not allowed; give a multiple of {cell} pixels from {cell} to {shorter - cell}"
        )
    return CanvasSize(height // cell, width // cell, overlap // cell)


def expand(
    painter: Painter,
    labels: Sequence[int] | Tensor,
    seeds: Sequence[int],
    size: CanvasSize,
    *,
    start: Tensor | None = None,
    sampling: SamplingConfig | None = None,
    on_progress: OnProgress = lambda canvas, is_done: None,
) -> Tensor:
    """Return a canvas (batch, rows, columns, subtokens) of one picture per label and seed, grown right and down.

    It begins in its upper left corner, with the codes `start` (batch or 1, rows, columns, subtokens), or else with the
    very image that `Painter.draw` makes of the label and the seed.
    """
    grid = painter.config.tokenizer.grid
    assert size.rows >= grid.rows
    assert size.columns >= grid.columns
    canvas = torch.zeros((len(seeds), size.rows, size.columns, painter.shape.subtokens), dtype=torch.int64)
    is_known = np.zeros((size.rows, size.columns), dtype=np.bool_)
    if start is not None:
        rows, columns = start.shape[1:3]
        canvas[:, :rows, :columns] = start
        is_known[:rows, :columns] = True
    return fill(
        painter, labels, seeds, canvas, is_known, overlap=size.overlap, sampling=sampling, on_progress=on_progress
    )


def fill(
    painter: Painter,
    labels: Sequence[int] | Tensor,
    seeds: Sequence[int],
    canvas: Tensor,
    is_known: NDArray[np.bool_],
    *,
    overlap: int = 0,
    sampling: SamplingConfig | None = None,
    on_progress: OnProgress = lambda canvas, is_done: None,
) -> Tensor:
    """Return `canvas` (batch or 1, rows, columns, subtokens), drawn where `is_known` (rows, columns) is False.

    With a canvas of the model's own grid, where there is no `overlap`, this edits a picture: the known cells stay, the
    others are drawn anew. Each cell is drawn once, by the first window that reaches it. A window's random numbers
    depend on the image's seed and the window's place alone; those of the window at (0, 0) are those of `Painter.draw`.
    """
    grid = painter.config.tokenizer.grid
    canvas = canvas.expand(len(seeds), -1, -1, -1).clone().to(painter.device)
    is_done = is_known.copy()
    for top in window_starts(canvas.shape[1], grid.rows, overlap):
        for left in window_starts(canvas.shape[2], grid.columns, overlap):
            rows, columns = slice(top, top + grid.rows), slice(left, left + grid.columns)
            _draw_window(
                painter,
                labels,
                [window_seed(seed, top, left) for seed in seeds],
                canvas[:, rows, columns],
                is_done[rows, columns],
                sampling,
                lambda: on_progress(canvas, is_done),
            )
    return canvas


def _draw_window(
    painter: Painter,
    labels: Sequence[int] | Tensor,
    seeds: Sequence[int],
    window: Tensor,
    is_done: NDArray[np.bool_],
    sampling: SamplingConfig | None,
    on_progress: Callable[[], None],
) -> None:
    """Draw the open cells of a window in place: it is a view of the canvas, as `is_done` is of all that is done."""
    was_done = is_done.copy()
    if was_done.all():
        return

    def take_over(codes: Tensor, is_drawn: NDArray[np.bool_]) -> None:
        window.copy_(codes.view_as(window))
        is_done[:] = was_done | is_drawn.reshape(is_done.shape)
        on_progress()

    known = Known(window.flatten(1, 2), was_done.ravel())
    painter.draw(labels, seeds, sampling=sampling, known=known, on_progress=take_over)


def window_starts(length: int, window: int, overlap: int) -> list[int]:
    """Return where windows begin along a side of `length` cells; the last one ends with it, and may overlap more."""
    return [*range(0, length - window, window - overlap), length - window]


def window_seed(seed: int, top: int, left: int) -> int:
    """Return the seed of a window of an image; the first has the image's own."""
    return seed if top == left == 0 else derive_seed(seed, "window", top, left)


@torch.inference_mode()
def decode_canvas(painter: Painter, canvas: Tensor, overlap: int) -> NDArray[np.uint8]:
    """Return the pictures (batch, height, width, 3) of a canvas (batch, rows, columns, subtokens).

    Windows of the tokenizer's own grid are decoded one by one and blended linearly in pixels where they overlap, by
    `overlap` cells or more. Decoding the whole at once would be simpler, but norms and attention span all of a map, and
    were trained on one size. A canvas of one window gives the bytes of `Painter.decode`.
    """
    return np.concatenate([_decode_one(painter, image, overlap) for image in canvas.split(1)])


def _decode_one(painter: Painter, canvas: Tensor, overlap: int) -> NDArray[np.uint8]:
    grid, cell = painter.config.tokenizer.grid, painter.config.tokenizer.downsampling
    tops, lefts = (
        window_starts(length, window, overlap) for length, window in zip(canvas.shape[1:3], grid, strict=True)
    )
    strips = []
    for top in tops:
        windows = (canvas[:, top : top + grid.rows, left : left + grid.columns].flatten(1, 2) for left in lefts)
        bits = (subtokens_to_bits(window, painter.shape.subtoken_bits) for window in windows)
        images = [painter.tokenizer.images_from_codes(window).cpu() for window in bits]
        strips.append(_blend(images, [left * cell for left in lefts], dim=3))
    picture = _blend(strips, [top * cell for top in tops], dim=2)
    return (picture * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _blend(pieces: Sequence[Tensor], starts: Sequence[int], dim: int) -> Tensor:
    """Lay pieces (batch, 3, height, width) that begin at `starts` along `dim`; each fades in over the ones before."""
    whole = pieces[0]
    for piece, start in zip(pieces[1:], starts[1:], strict=True):
        shared = whole.shape[dim] - start
        shape = [1] * piece.dim()
        shape[dim] = shared
        weight = ((torch.arange(shared) + 0.5) / shared).view(shape)
        before, old = whole.split([start, shared], dim)
        new, after = piece.split([shared, piece.shape[dim] - shared], dim)
        whole = torch.cat([before, torch.lerp(old, new, weight), after], dim)
    return whole

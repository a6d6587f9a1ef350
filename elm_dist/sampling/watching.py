"""Watches canvases being drawn: their pictures whenever another row is done, with what is still missing in grey.

Knows nothing of who watches; `page.py` shows the frames in a browser.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Queue
from threading import Event
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.sampling.canvas import OnProgress, decode_canvas
from elm_dist.sampling.painter import Painter

GREY = 228  # of a pixel that is not drawn yet
PREVIEW_SHARE = 0.2  # of the time so far, which decoding unfinished pictures may have taken before the next is decoded
PATIENCE = 0.2  # seconds between two signs of life


class Frame(NamedTuple):
    """How far the pictures are."""

    pictures: NDArray[np.uint8]  # (batch, height, width, 3)
    share: float  # of their cells that are drawn; 1 = finished


class Easel:
    """Where a painter draws one thing at a time, in a thread of its own, for somebody to watch."""

    def __init__(self, painter: Painter) -> None:
        self.painter = painter
        self._hand = ThreadPoolExecutor(1, thread_name_prefix="painter")
        self._is_closed = Event()

    def watch(self, draw: Callable[[OnProgress], Tensor], overlap: int, stop: Event) -> Iterator[Frame | None]:
        """Have a canvas drawn, and yield frames of it, the finished one last, unless `stop` is set before.

        In between comes None, a few times a second, so that whoever watches gets the chance to leave: once the iterator
        is closed, or `stop` is set, the drawing ends at its next position. `overlap` is that of the canvas, in cells.
        Whatever `draw` raises is raised here.
        """
        frames: Queue[Frame | None] = Queue()
        is_left = Event()
        preview = _Previews(self.painter, overlap)

        def on_progress(canvas: Tensor, is_done: NDArray[np.bool_]) -> None:
            if is_left.is_set() or stop.is_set() or self._is_closed.is_set():
                raise _UnwatchedError
            if not is_done.all() and preview.is_due(is_done):
                frames.put(preview.decode(canvas, is_done))

        def finish() -> Frame:
            return Frame(decode_canvas(self.painter, draw(on_progress), overlap), 1.0)

        drawing = self._hand.submit(finish)
        drawing.add_done_callback(lambda _: frames.put(None))
        try:
            while not drawing.done():
                try:
                    yield frames.get(timeout=PATIENCE)
                except Empty:
                    yield None
            with suppress(_UnwatchedError):
                yield drawing.result()
        finally:
            is_left.set()
            drawing.cancel()  # if it still waits for its turn

    def close(self) -> None:
        """End what is being drawn, and wait for that."""
        self._is_closed.set()
        self._hand.shutdown(cancel_futures=True)


class _UnwatchedError(Exception):
    """Ends a drawing."""


class _Previews:
    """Decodes unfinished canvases, at most once for every row of cells, and less often where decoding is slow."""

    def __init__(self, painter: Painter, overlap: int) -> None:
        self.painter, self.overlap = painter, overlap
        self.begun = time.perf_counter()
        self.decoding = 0.0  # seconds spent
        self.shown = 0  # cells that were done at the last preview

    def is_due(self, is_done: NDArray[np.bool_]) -> bool:
        has_new_row = is_done.sum() - self.shown >= self.painter.config.tokenizer.grid.columns
        return bool(has_new_row) and self.decoding <= PREVIEW_SHARE * (time.perf_counter() - self.begun)

    def decode(self, canvas: Tensor, is_done: NDArray[np.bool_]) -> Frame:
        self.shown = is_done.sum()
        canvas.cpu()  # wait for a GPU to draw what it was asked to: that is not the decoder's time
        started = time.perf_counter()
        pictures = decode_canvas(self.painter, canvas, self.overlap)
        self.decoding += time.perf_counter() - started
        cell = self.painter.config.tokenizer.downsampling
        is_drawn = is_done.repeat(cell, axis=0).repeat(cell, axis=1)
        return Frame(np.where(is_drawn[..., None], pictures, np.uint8(GREY)), float(is_done.mean()))

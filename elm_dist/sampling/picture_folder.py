"""What `elm expand`, `elm edit` and `elm interpolate` share: pictures drawn by one process into a folder that says how.

`sampling.json` is there first, as with `elm sample`; the pictures are drawn anew each time. Read next: `expand.py`,
`edit.py`, `interpolate.py`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.checkpoint.tokenizer import check_tokenizer_fits
from elm_dist.config import Config
from elm_dist.devices import own_device
from elm_dist.monitoring.speedometer import Speedometer
from elm_dist.sampling.canvas import OnProgress, decode_canvas
from elm_dist.sampling.images import save_png
from elm_dist.sampling.job import DrawingJob
from elm_dist.sampling.painter import Painter
from elm_dist.sampling.settings import claim_folder

# Draws a batch: gets its part of all pictures and what watches it, returns the canvas of each.
Draw = Callable[[slice, OnProgress], Tensor]


def claim_painter(job: DrawingJob, config: Config, **pictures: Any) -> Painter:
    """Return the painter of a job, after its folder was found to hold nothing but pictures of these settings.

    `pictures` says all else that decides them; the folder says so, too. Raises an ElmError as `claim_folder` does, or
    for a tokenizer that does not fit.
    """
    check_tokenizer_fits(config.tokenizer.directory, config.tokenizer)
    checkpoint = claim_folder(job.out, job.run, config, step=job.step, is_main=True, seed=job.seed, **pictures)
    return Painter(config, checkpoint, own_device(config.parallel.device, 0))


def draw_pictures(
    painter: Painter, paths: Sequence[Path], draw: Draw, *, overlap: int, batch_size: int, work: str
) -> None:
    """Write a PNG to each path, drawn batch by batch; a bar named `work` counts cells."""
    with Speedometer(work, 0, 1, unit="cells") as speedometer:
        for begin in range(0, len(paths), batch_size):
            part = slice(begin, begin + batch_size)
            canvas = draw(part, _counter(speedometer, begin, len(paths)))
            for path, image in zip(paths[part], decode_canvas(painter, canvas, overlap), strict=True):
                save_png(path, image)


def _counter(speedometer: Speedometer, before: int, pictures: int) -> OnProgress:
    """Return what shows the cells that are done: those of the pictures before this batch, and those of the batch."""

    def count(canvas: Tensor, is_done: NDArray[np.bool_]) -> None:
        done = before * is_done.size + len(canvas) * int(is_done.sum())
        speedometer.show(done, pictures * is_done.size)

    return count

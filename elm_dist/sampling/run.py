"""Samples a finished or running run from its folder, on any number of processes that come and go.

The processes meet in the folder of the images alone: each draws its share of the batches, and the main one, when all
images are there, makes of them a grid and a file for scores. Read next: `requests.py`, `settings.py`, `collect.py`.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.checkpoint.tokenizer import check_tokenizer_fits
from elm_dist.devices import own_device
from elm_dist.monitoring.speedometer import Speedometer
from elm_dist.parallel.environment import process_environment
from elm_dist.sampling.collect import wait_for_images, write_grid, write_npz
from elm_dist.sampling.generate import OnCodes
from elm_dist.sampling.images import save_png
from elm_dist.sampling.job import DrawingJob
from elm_dist.sampling.painter import Painter, check_classes
from elm_dist.sampling.requests import ImageRequest, list_batches, list_requests
from elm_dist.sampling.settings import claim_folder

UNDECODED = 2  # batches of codes that wait for the decoder, before generation waits for it


def sample_run(
    job: DrawingJob, *, classes: list[int] | None = None, per_class: int = 1, npz: bool = False
) -> Path | None:
    """Draw `per_class` images of each class into class_0000/00000.png and on, in the job's folder.

    Without `classes` all of them are drawn. Images that are there already are kept. The main process waits for the
    images of the others and returns the path of a grid, the others return None. Raises an ElmError for a class or a
    preset that is not there, a folder that is no run, a run without a checkpoint, a tokenizer that does not fit, or a
    folder with images of other settings.
    """
    process = process_environment()
    config, out = job.load_config(), job.out
    every = range(config.model.num_classes)
    labels = check_classes("--classes", every if classes is None else classes, config.model.num_classes)
    check_tokenizer_fits(config.tokenizer.directory, config.tokenizer)
    chosen = "all" if classes is None else ",".join(map(str, labels))
    checkpoint = claim_folder(
        out, job.run, config, step=job.step, is_main=process.is_main, seed=job.seed, classes=chosen, per_class=per_class
    )
    requests = list_requests(labels, per_class)
    batches = list_batches(requests, job.batch_size, process.rank, process.world_size)
    unfinished = [batch for batch in batches if not all((out / request.path).exists() for request in batch)]
    if unfinished:
        device = own_device(config.parallel.device, process.local_rank)
        sampler = Sampler(Painter(config, checkpoint, device), job.seed, out)
        total, left = (sum(map(len, some)) for some in (batches, unfinished))
        with Speedometer("sampling", process.rank, process.world_size) as speedometer:
            sampler.draw(unfinished, lambda drawn: speedometer.show(total - left + drawn, total))
    if not process.is_main:
        return None
    wait_for_images(out, requests)
    if npz:
        write_npz(out, requests)
    return write_grid(out, labels, per_class)


class Sampler:
    """Draws batches of images into a folder; the tokenizer decodes one batch while the model draws the next."""

    def __init__(self, painter: Painter, seed: int, out: Path) -> None:
        self.painter, self.seed, self.out = painter, seed, out

    def draw(self, batches: list[list[ImageRequest]], progress: Callable[[int], None]) -> None:
        """Draw and write all images that are missing; `progress` is told after each position how many are drawn."""
        drawn = 0
        progress(drawn)
        waiting: deque[Future[None]] = deque()
        with ThreadPoolExecutor(1) as decoder:
            for batch in batches:
                codes = self._draw(batch, partial(_tell, progress, drawn, len(batch)))
                drawn += len(batch)
                waiting.append(decoder.submit(self._write, batch, codes))
                if len(waiting) > UNDECODED:
                    waiting.popleft().result()
            for writing in waiting:
                writing.result()

    def _draw(self, batch: list[ImageRequest], on_progress: OnCodes) -> Tensor:
        labels = [request.label for request in batch]
        return self.painter.draw(labels, [request.seed(self.seed) for request in batch], on_progress=on_progress)

    def _write(self, batch: list[ImageRequest], codes: Tensor) -> None:
        for request, image in zip(batch, self.painter.decode(codes), strict=True):
            if not (self.out / request.path).exists():
                save_png(self.out / request.path, image)


def _tell(progress: Callable[[int], None], drawn: int, batch: int, codes: Tensor, is_done: NDArray[np.bool_]) -> None:
    """Count the images so far: `drawn` before this batch, and the share of it that its positions make."""
    progress(drawn + batch * int(is_done.sum()) // len(is_done))

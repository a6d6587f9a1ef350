"""The job behind `elm tokenize`: a trained tokenizer from its folder, images in, shards out, on many processes.

Started by itself it is one process; started by `torchrun` it is one of several, which share the shards out by number.
"""

import logging
import sys
import time
from pathlib import Path

import torch
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from elm_dist.checkpoint.tokenizer import load_tokenizer, tokenizer_fingerprint
from elm_dist.data.encode import encode_images
from elm_dist.data.shards import Payload, Views
from elm_dist.devices import choose_device
from elm_dist.parallel.environment import ProcessEnvironment, process_environment

log = logging.getLogger(__name__)

LOG_SECONDS = 10.0  # between two lines of progress, where there is no terminal to draw a bar on


def tokenize_images(
    images: Path,
    tokenizer: Path,
    out: Path,
    *,
    batch_size: int,
    seed: int,
    flip: bool,
    views: Views = "centre",
    payload: Payload = "bits",
    max_broken: float = 0.01,
) -> None:
    """Encode the images of a folder with the tokenizer in another; goes on where killed processes stopped.

    Raises an ElmError if the tokenizer, the images or what is in `out` cannot be used.
    """
    process = process_environment()
    model, fingerprint = load_tokenizer(tokenizer, _device(process)), tokenizer_fingerprint(tokenizer)
    with Speedometer(process.rank, process.world_size) as speedometer:
        manifest = encode_images(
            images,
            model,
            fingerprint,
            out,
            batch_size=batch_size,
            seed=seed,
            flip=flip,
            views=views,
            payload=payload,
            max_broken=max_broken,
            progress=speedometer.show,
            rank=process.rank,
            world_size=process.world_size,
        )
    if manifest is not None:
        counts = ", ".join(f"{manifest.samples(split):,} {split}" for split in manifest.splits)
        log.info("%s: %s samples of %d x %d codes", out, counts, manifest.grid, manifest.grid)


class Speedometer:
    """Shows how far this process is, its images per second and the time left: one bar, or lines if it is not alone."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._name = f"process {rank + 1} of {world_size}" if world_size > 1 else "tokenizing"
        self._bar = Progress(
            *Progress.get_default_columns()[:-1],
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            transient=True,
            disable=world_size > 1 or not sys.stdout.isatty(),
        )
        self._task = self._bar.add_task(self._name, total=None, speed="")
        self._begin = self._logged = time.monotonic()
        self._first: int | None = None  # samples that were there before this run

    def __enter__(self) -> "Speedometer":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def show(self, done: int, total: int) -> None:
        """Report that `done` of `total` samples are encoded; cheap enough to be called for each batch."""
        now = time.monotonic()
        if self._first is None:  # the first call comes before the first batch
            self._begin, self._first = now, done
        rate = (done - self._first) / max(now - self._begin, 1e-9)
        self._bar.update(self._task, completed=done, total=total, speed=f"{rate:,.0f} images/s")
        if self._bar.disable and rate and (now - self._logged >= LOG_SECONDS or done == total):
            self._logged = now
            minutes = (total - done) / rate / 60
            line = f"{self._name}: {done:,} of {total:,} samples, {rate:,.0f} images/s, {minutes:,.1f} minutes left"
            log.info(line)


def _device(process: ProcessEnvironment) -> torch.device:
    """Return this process's own GPU, or the CPU."""
    device = choose_device("auto")
    return torch.device("cuda", process.local_rank % torch.cuda.device_count()) if device.type == "cuda" else device

"""Samples a finished or running run from its folder, on any number of processes that come and go.

The processes meet in the folder of the images alone: each draws its share of the batches, and the main one, when all
images are there, makes of them a grid and a file for scores. Read next: `requests.py`, `settings.py`, `collect.py`.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from elm_dist.checkpoint.model import load_model
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.checkpoint.tokenizer import check_tokenizer_fits, load_tokenizer
from elm_dist.config import Config
from elm_dist.devices import own_device
from elm_dist.errors import ConfigError
from elm_dist.model.elm import ELM, Decoder, code_shape
from elm_dist.model.int8 import quantize_blocks
from elm_dist.monitoring.speedometer import Speedometer
from elm_dist.parallel.environment import process_environment
from elm_dist.sampling.collect import wait_for_images, write_grid, write_npz
from elm_dist.sampling.decode import decode_images
from elm_dist.sampling.generate import generate
from elm_dist.sampling.images import save_png
from elm_dist.sampling.presets import load_config_to_sample
from elm_dist.sampling.requests import ImageRequest, list_batches, list_requests
from elm_dist.sampling.settings import claim_folder

UNDECODED = 2  # batches of codes that wait for the decoder, before generation waits for it


def sample_run(
    run: Path,
    out: Path,
    *,
    classes: list[int] | None = None,
    per_class: int = 1,
    seed: int = 0,
    batch_size: int = 32,
    preset: str | None = None,
    step: int | None = None,
    npz: bool = False,
    overrides: list[str] | None = None,
) -> Path | None:
    """Draw `per_class` images of each class into `out`/class_0000/00000.png and on.

    Without `classes` all of them are drawn. Images that are there already are kept. The main process waits for the
    images of the others and returns the path of a grid, the others return None. Raises an ElmError for a class or a
    preset that is not there, a folder that is no run, a run without a checkpoint, a tokenizer that does not fit, or an
    `out` with images of other settings.
    """
    process = process_environment()
    config = load_config_to_sample(run, preset, overrides or [])
    labels = _check_classes(classes, config.model.num_classes)
    check_tokenizer_fits(config.tokenizer.directory, config.tokenizer)
    chosen = "all" if classes is None else ",".join(map(str, labels))
    checkpoint = claim_folder(
        out, run, config, step=step, is_main=process.is_main, seed=seed, classes=chosen, per_class=per_class
    )
    requests = list_requests(labels, per_class)
    batches = list_batches(requests, batch_size, process.rank, process.world_size)
    unfinished = [batch for batch in batches if not all((out / request.path).exists() for request in batch)]
    if unfinished:
        device = own_device(config.parallel.device, process.local_rank)
        sampler = Sampler(config, checkpoint, device, seed, out)
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

    def __init__(self, config: Config, checkpoint: Checkpoint, device: torch.device, seed: int, out: Path) -> None:
        self.config, self.device, self.seed, self.out = config, device, seed, out
        self.model = load_model_to_sample(checkpoint, config).to(device)
        self.tokenizer = load_tokenizer(config.tokenizer.directory, device)

    def draw(self, batches: list[list[ImageRequest]], progress: Callable[[int], None]) -> None:
        """Draw and write all images that are missing; `progress` is told after each position how many are drawn."""
        drawn, positions = 0, self.config.tokenizer.positions  # positions of all images, and of one

        def advance(images: int) -> None:
            nonlocal drawn
            drawn += images
            progress(drawn // positions)

        advance(0)
        waiting: deque[Future[None]] = deque()
        with ThreadPoolExecutor(1) as decoder:
            for batch in batches:
                codes = self._generate(batch, partial(advance, len(batch)))
                waiting.append(decoder.submit(self._write, batch, codes))
                if len(waiting) > UNDECODED:
                    waiting.popleft().result()
            for writing in waiting:
                writing.result()

    def _generate(self, batch: list[ImageRequest], on_position: Callable[[], None]) -> Tensor:
        """Return the sub-tokens of a batch."""
        config = self.config
        return generate(
            lambda size: Decoder(self.model, size).step,
            code_shape(config.model, config.tokenizer.grid),
            torch.tensor([request.label for request in batch], device=self.device),
            [request.seed(self.seed) for request in batch],
            config.model.num_classes,
            config.sampling,
            on_position,
        )

    def _write(self, batch: list[ImageRequest], codes: Tensor) -> None:
        images = decode_images(self.tokenizer, codes, self.config.model.subtoken_bits)
        for request, image in zip(batch, images, strict=True):
            if not (self.out / request.path).exists():
                save_png(self.out / request.path, image)


def load_model_to_sample(checkpoint: Checkpoint, config: Config) -> ELM:
    """Return the whole model with the weights and in the precision that `sampling:` names."""
    model = load_model(checkpoint, config, config.sampling.weights)
    if config.sampling.weights_int8:
        quantize_blocks(model)
    if config.sampling.precision == "bf16":
        model.to(torch.bfloat16)
    return model


def _check_classes(classes: list[int] | None, num_classes: int) -> list[int]:
    if classes is None:
        return list(range(num_classes))
    unknown = [label for label in classes if not 0 <= label < num_classes]
    if unknown:
        raise ConfigError(
            f"--classes: there is no class {', '.join(map(str, unknown))}; this run has classes 0 to {num_classes - 1}"
        )
    return list(dict.fromkeys(classes))

"""Samples a finished or running run from its folder: images of the asked classes, as files and as one grid."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from elm_dist.checkpoint.store import CHECKPOINTS, newest_good
from elm_dist.checkpoint.tokenizer import check_tokenizer_fits, load_tokenizer
from elm_dist.config import Config
from elm_dist.config_file import load_config
from elm_dist.devices import choose_device
from elm_dist.errors import CheckpointError, ConfigError
from elm_dist.model.elm import ELM, Decoder, code_shape, layer_specs
from elm_dist.randomness import derive_seed
from elm_dist.sampling.decode import decode_images
from elm_dist.sampling.generate import generate
from elm_dist.sampling.images import enlarge, image_grid, save_png
from elm_dist.tokenizers.build import Tokenizer


@dataclass(frozen=True)
class ImageRequest:
    """One image to draw: number `index` of class `label`."""

    label: int
    index: int

    def seed(self, seed: int) -> int:
        """Return what decides the image, whatever else is drawn with it."""
        return derive_seed(seed, "image", self.label, self.index)

    @property
    def path(self) -> Path:
        return Path(f"class_{self.label:04d}") / f"{self.index:05d}.png"


def sample_run(
    run_directory: Path,
    out: Path,
    *,
    classes: list[int] | None = None,
    per_class: int = 1,
    seed: int = 0,
    batch_size: int = 32,
    overrides: list[str] | None = None,
) -> Path:
    """Draw `per_class` images of each class into `out`/class_0000/00000.png and on; return the path of their grid.

    Without `classes` all of them are drawn. Raises an ElmError for a class that is not there, a folder that is no run,
    a run without a checkpoint, or a tokenizer that does not fit.
    """
    config = _load_run_config(run_directory, overrides or [])
    labels = _check_classes(classes, config.model.num_classes)
    check_tokenizer_fits(config.tokenizer.directory, config.tokenizer)
    device = choose_device(config.parallel.device)
    model = load_model(run_directory, config).to(device)
    tokenizer = load_tokenizer(config.tokenizer.directory, device)
    requests = [ImageRequest(label, index) for label in labels for index in range(per_class)]
    images = []
    with Progress(transient=True) as progress:
        task = progress.add_task("sampling", total=-(-len(requests) // batch_size) * config.tokenizer.positions)
        for begin in range(0, len(requests), batch_size):
            batch = requests[begin : begin + batch_size]
            drawn = _draw(model, tokenizer, batch, seed, config, lambda: progress.advance(task))
            for request, image in zip(batch, drawn, strict=True):
                save_png(out / request.path, image)
            images.append(drawn)
    grid = image_grid(np.concatenate(images), columns=per_class if per_class > 1 else None)
    save_png(out / "grid.png", enlarge(grid, config.tokenizer.image_size))
    return out / "grid.png"


def load_model(run_directory: Path, config: Config) -> ELM:
    """Return the whole model of a run in evaluation mode, fp32, with the weights that `sampling.weights` names."""
    checkpoint = newest_good(run_directory / CHECKPOINTS)
    if checkpoint is None:
        raise CheckpointError(
            f"{run_directory} has no checkpoint yet; train it, and set checkpoint.every to have one sooner"
        )
    kind = "ema" if config.sampling.weights == "ema" else "weights"
    with torch.device("meta"):  # so that no weights are drawn only to be replaced
        model = ELM(layer_specs(config.model, config.tokenizer.grid))
    tensors = {name: checkpoint.read(kind, name, tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


def _draw(
    model: ELM,
    tokenizer: Tokenizer,
    requests: list[ImageRequest],
    seed: int,
    config: Config,
    on_position: Callable[[], None],
) -> NDArray[np.uint8]:
    """Return the images (batch, size, size, 3) of one batch of requests."""
    shape = code_shape(config.model, config.tokenizer.grid)
    labels = torch.tensor([request.label for request in requests], device=next(model.parameters()).device)
    seeds = [request.seed(seed) for request in requests]
    codes = generate(
        lambda batch: Decoder(model, batch).step,
        shape,
        labels,
        seeds,
        config.model.num_classes,
        config.sampling,
        on_position,
    )
    return decode_images(tokenizer, codes, config.model.subtoken_bits)


def _load_run_config(run_directory: Path, overrides: list[str]) -> Config:
    path = run_directory / "config.yaml"
    if not path.is_file():
        raise CheckpointError(
            f"{run_directory} is not a run: it has no config.yaml; give the run.directory of a training"
        )
    return load_config(path, overrides)


def _check_classes(classes: list[int] | None, num_classes: int) -> list[int]:
    if classes is None:
        return list(range(num_classes))
    unknown = [label for label in classes if not 0 <= label < num_classes]
    if unknown:
        raise ConfigError(
            f"--classes: there is no class {', '.join(map(str, unknown))}; this run has classes 0 to {num_classes - 1}"
        )
    return classes

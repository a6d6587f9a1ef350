"""The Python interface: a trained run, or an exported model, for a program or a notebook of one's own.

    run = load_run("runs/demo")
    images = run.decode(run.sample(classes=[3, 5]))

The names here stay as they are; docs/api.md shows them at work. What is computed is what the commands compute, by the
same functions: the command line and this module know nothing of each other.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import count
from operator import index
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from elm_dist.checkpoint.convert import KINDS
from elm_dist.checkpoint.model import load_model
from elm_dist.checkpoint.pretrained import load_pretrained
from elm_dist.checkpoint.run_folder import choose_checkpoint
from elm_dist.codes.packing import pack_bits, subtokens_to_bits
from elm_dist.codes.scan import scan_order
from elm_dist.config import Config, SamplingConfig
from elm_dist.errors import ConfigError, ElmError, ImageError
from elm_dist.model.elm import ELM
from elm_dist.model.loss import CodeLoss
from elm_dist.sampling.painter import Painter, check_classes, load_painter
from elm_dist.sampling.pictures import encode_picture
from elm_dist.sampling.presets import load_config_to_sample
from elm_dist.sampling.requests import ImageRequest, list_batches

__all__ = ["Run", "load_pretrained", "load_run"]

BATCH = 32  # images computed together: that of `elm sample`, as a matrix product rounds by the size of its batch
SETTLED = ("weights", "precision", "weights_int8", "compile", "cuda_graphs")  # of `sampling:`, when a run is loaded

Codes = NDArray[np.int64]
Images = NDArray[np.uint8]


def load_run(
    run: Path | str, *, step: int | None = None, preset: str | None = None, overrides: Sequence[str] = ()
) -> "Run":
    """Return a run with its newest good checkpoint, or that of `step`, ready to draw.

    `preset` and `overrides`, such as "parallel.device=cpu", are those of `elm sample`. Raises an ElmError for a folder
    that is no run, a run without such a checkpoint, a preset or a setting that is not there, and a tokenizer that is
    missing or does not fit the model.
    """
    return Run(Path(run), step, preset, list(overrides))


class Run:
    """A trained run: it draws codes, makes images of codes and codes of images, and tells how likely images are.

    Codes are int64 (n, rows, columns, subtokens), each below 2^subtoken_bits. Images are uint8 (n, height, width, 3),
    RGB. Both are numpy's; only `model` is torch's. Of either there may be any number: they are computed in pieces.
    """

    def __init__(self, directory: Path, step: int | None, preset: str | None, overrides: list[str]) -> None:
        self._directory, self._preset, self._overrides = directory, preset, overrides
        self._painter: Painter = load_painter(directory, preset=preset, step=step, overrides=overrides)

    @property
    def config(self) -> Config:
        """The configuration of the run, as it is sampled."""
        return self._painter.config

    @property
    def step(self) -> int:
        """Of the checkpoint."""
        return self._painter.step

    @cached_property
    def model(self) -> ELM:
        """The torch module, in fp32 and without gradients: model((pack(codes), labels)) are logits.

        It is loaded when it is first asked for, beside what draws. Raises CheckpointError if its checkpoint has gone.
        """
        weights = self.config.sampling.weights
        prefix = f"{KINDS[weights]}-"
        checkpoint = choose_checkpoint(
            self._directory, self.step, lambda files: [file for file in files if file.startswith(prefix)]
        )
        return load_model(checkpoint, self.config, weights).to(self._painter.device)

    def sample(self, classes: Sequence[int], seed: int = 0, **settings: object) -> Codes:
        """Draw an image of each of `classes`; return their codes (n, rows, columns, subtokens).

        The first image of a class is the first that `elm sample --seed` draws of it, and so on. `settings` are those of
        `sampling:`, such as cfg_scale=2.5 or top_k=100, in place of the run's own. Raises ConfigError for a class or a
        setting that is not there.
        """
        numbers: dict[int, count[int]] = defaultdict(count)
        requests = [ImageRequest(label, next(numbers[label])) for label in self._check_labels(classes)]
        sampling = self._sampling(settings)
        drawn = [
            self._painter.draw(
                [request.label for request in batch], [request.seed(seed) for request in batch], sampling=sampling
            )
            for batch in list_batches(requests, BATCH)
        ]
        return torch.cat(drawn).unflatten(1, self._code_size[:2]).cpu().numpy()

    def decode(self, codes: ArrayLike) -> Images:
        """Return the images (n, height, width, 3) of codes (n, rows, columns, subtokens).

        Raises ElmError for codes of another shape or beyond 2^subtoken_bits.
        """
        tensor = torch.from_numpy(self._check_codes(codes)).to(self._painter.device)
        return np.concatenate([self._painter.decode(part) for part in tensor.split(BATCH)])

    def encode(self, images: Iterable[ArrayLike | Image.Image]) -> Codes:
        """Return the codes (n, rows, columns, subtokens) of n images, each uint8 (height, width, 3) or of Pillow.

        They may be of any size: they are scaled and cropped as training images are. Raises ImageError for others.
        """
        pictures = _check_images(images)
        return torch.cat([encode_picture(self._painter, picture) for picture in pictures]).cpu().numpy()

    @torch.no_grad()
    def score(
        self, images: Iterable[ArrayLike | Image.Image], classes: Sequence[int] | None = None
    ) -> NDArray[np.float64]:
        """Return how many bits the model needs for the codes of each image, (n,), given its class or without any.

        This is the negative log-likelihood of the codes of `encode`, in fp32: what `elm evaluate RUN` means over the
        validation images. Raises ConfigError for a class that is not there or a masked model, ImageError as `encode`.
        """
        if self.config.model.modelling == "masked":
            raise ConfigError(
                f"{self._directory}: a masked model gives codes no order and so images no score; score with a run of "
                "model.modelling=autoregressive"
            )
        packed = self.pack(self.encode(images))
        null = self.config.model.num_classes
        labels = [null] * len(packed) if classes is None else self._check_labels(classes)
        if len(labels) != len(packed):
            raise ConfigError(f"classes: there are {len(labels)} for {len(packed)} images; give one for each image")
        batches = zip(packed.split(BATCH), torch.tensor(labels, device=packed.device).split(BATCH), strict=True)
        return np.array([bits for batch in batches for bits in self._bits(*batch)])

    def pack(self, codes: ArrayLike) -> Tensor:
        """Return codes (n, rows, columns, subtokens) as `model` takes them: bytes (n, packed_bytes).

        They are in the order of its scan. A masked model takes a mask with them: `elm_dist.model.masking.append_mask`.
        Raises ElmError as `decode`.
        """
        order = scan_order(self.config.model.scan, self.config.tokenizer.grid)
        scanned = torch.from_numpy(self._check_codes(codes)[:, order]).to(self._painter.device)
        return pack_bits(subtokens_to_bits(scanned, self.config.model.subtoken_bits).flatten(1))

    def _bits(self, packed: Tensor, labels: Tensor) -> list[float]:
        """Return the bits of each image of a batch of packed codes (batch, packed_bytes) and labels (batch,)."""
        loss, bits = CodeLoss(self._painter.shape), []
        for logits, codes in zip(self.model((packed, labels)).split(1), packed.split(1), strict=True):
            loss.reset()
            loss(logits, codes)
            nats = loss.sums[: self._painter.shape.subtokens].sum().item()  # over all positions and heads
            bits.append(nats / math.log(2))
        return bits

    def _sampling(self, settings: dict[str, object]) -> SamplingConfig:
        """Return the run's sampling with `settings`, read and refused as those of the command line are."""
        changed = [f"sampling.{name}={json.dumps(value, default=str)}" for name, value in settings.items()]
        own = self.config.sampling
        sampling = load_config_to_sample(self._directory, self._preset, [*self._overrides, *changed]).sampling
        for name in SETTLED:
            if (wanted := getattr(sampling, name)) != getattr(own, name):
                raise ConfigError(
                    f"sampling.{name}: this run was loaded with {getattr(own, name)}; load it with "
                    f"load_run(..., overrides=['sampling.{name}={wanted}'])"
                )
        return sampling

    @property
    def _code_size(self) -> tuple[int, int, int]:
        """Rows, columns and sub-tokens of an image's codes."""
        grid = self.config.tokenizer.grid
        return grid.rows, grid.columns, self.config.model.subtokens

    def _check_labels(self, classes: Sequence[int]) -> list[int]:
        labels = [index(label) for label in classes]
        if not labels:
            raise ConfigError("classes: none is given; give one or more class numbers, as in [3, 5]")
        check_classes("classes", labels, self.config.model.num_classes)
        return labels

    def _check_codes(self, codes: ArrayLike) -> Codes:
        """Return codes as (n, positions, subtokens)."""
        array, size, vocabulary = np.asarray(codes), self._code_size, self.config.model.vocabulary
        if array.shape[1:] != size or not array.size or array.dtype.kind not in "iu":
            form = f"(n, {size[0]}, {size[1]}, {size[2]})"
            raise ElmError(f"codes: {_describe(array)} is not allowed; give whole numbers {form}")
        if array.min() < 0 or array.max() >= vocabulary:
            found = f"{array.min()} to {array.max()}"
            raise ElmError(f"codes: {found} are not allowed; those of this run are 0 to {vocabulary - 1}")
        return array.astype(np.int64).reshape(len(array), -1, size[2])


def _check_images(images: Iterable[ArrayLike | Image.Image]) -> list[Image.Image]:
    arrays = [np.asarray(image) for image in images]
    if not arrays:
        raise ImageError("images: none is given; give one or more")
    for array in arrays:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise ImageError(f"images: {_describe(array)} is no image; give each as uint8 (height, width, 3), RGB")
    return [Image.fromarray(array) for array in arrays]


def _describe(array: NDArray[np.generic]) -> str:
    return f"{array.dtype} ({', '.join(map(str, array.shape))})"

"""A run's model and tokenizer, loaded to draw with: what every door to sampling holds, from `elm sample` to a web page.

Knows nothing of folders of images; `run.py` fills those.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.checkpoint.convert import KINDS
from elm_dist.checkpoint.model import load_model
from elm_dist.checkpoint.run_folder import choose_checkpoint
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.checkpoint.tokenizer import check_tokenizer_fits, load_tokenizer
from elm_dist.config import Config, SamplingConfig
from elm_dist.devices import own_device
from elm_dist.errors import ConfigError
from elm_dist.model.decoder import FoldedDecoder
from elm_dist.model.elm import DECODERS, ELM, DecoderStep, code_shape
from elm_dist.model.folded import FoldedELM
from elm_dist.model.int8 import quantize_blocks
from elm_dist.model.kernels import check_compiler
from elm_dist.sampling.decode import decode_images
from elm_dist.sampling.draw import draw_codes
from elm_dist.sampling.generate import Known, OnCodes, ignore
from elm_dist.sampling.presets import load_config_to_sample


class Painter:
    """Draws codes with the weights and in the precision that `config.sampling` names, and turns them into pictures."""

    def __init__(self, config: Config, checkpoint: Checkpoint, device: torch.device) -> None:
        self.config, self.step, self.device = config, checkpoint.step, device
        self.shape = code_shape(config.model, config.tokenizer.grid)
        check_acceleration(config.sampling, device)
        model = load_model_to_sample(checkpoint, config).to(device)
        self._build_decoder = _decoders(model, config)
        self.tokenizer = load_tokenizer(config.tokenizer.directory, device)

    def draw(
        self,
        labels: Sequence[int] | Tensor,
        seeds: Sequence[int],
        *,
        sampling: SamplingConfig | None = None,
        known: Known | None = None,
        on_progress: OnCodes = ignore,
    ) -> Tensor:
        """Return the sub-tokens (batch, positions, subtokens) of one image per label and seed; see `draw_codes`.

        `sampling` is the run's own by default; weights, precision and speed are as the painter was made.
        """
        return draw_codes(
            self.config,
            self._build_decoder,
            torch.as_tensor(labels, device=self.device),
            seeds,
            sampling=sampling,
            known=known,
            on_progress=on_progress,
        )

    def decode(self, codes: Tensor) -> NDArray[np.uint8]:
        """Return the images (batch, size, size, 3) of sub-tokens (batch, positions, subtokens)."""
        return decode_images(self.tokenizer, codes, self.config.model.subtoken_bits)


def _decoders(model: ELM, config: Config) -> Callable[[int], DecoderStep]:
    """Return what makes a decoder for a batch, the fastest that the model has."""
    if config.model.is_foldable:
        folded = FoldedELM(model, config.sampling.compile)
        return lambda batch: FoldedDecoder(folded, batch, config.sampling.cuda_graphs).step
    kind = DECODERS[config.model.modelling]
    return lambda batch: kind(model, batch).step


def load_painter(
    run: Path, *, preset: str | None = None, step: int | None = None, overrides: list[str] | None = None
) -> Painter:
    """Return a painter with the newest good checkpoint of a run, or that of `step`.

    Raises an ElmError for a folder that is no run, a run without such a checkpoint, an unknown preset, or a tokenizer
    that does not fit the model.
    """
    config = load_config_to_sample(run, preset, overrides or [])
    check_tokenizer_fits(config.tokenizer.directory, config.tokenizer)
    prefix = f"{KINDS[config.sampling.weights]}-"
    checkpoint = choose_checkpoint(run, step, lambda files: [file for file in files if file.startswith(prefix)])
    return Painter(config, checkpoint, own_device(config.parallel.device, 0))


def load_model_to_sample(checkpoint: Checkpoint, config: Config) -> ELM:
    """Return the whole model with the weights and in the precision that `sampling:` names."""
    model = load_model(checkpoint, config, config.sampling.weights)
    if config.sampling.weights_int8:
        quantize_blocks(model)
    if config.sampling.precision == "bf16":
        model.to(torch.bfloat16)
    return model


def check_acceleration(sampling: SamplingConfig, device: torch.device) -> None:
    """Raise ConfigError for a way to compute that `device` or this machine does not have."""
    if sampling.cuda_graphs and device.type != "cuda":
        raise ConfigError(
            "sampling.cuda_graphs=true records the work of a GPU, and this computes on the CPU; set "
            "sampling.cuda_graphs=false, or sample where torch sees a GPU"
        )
    if sampling.compile:
        check_compiler("sampling.compile", device)


def check_classes(option: str, classes: Sequence[int], num_classes: int) -> list[int]:
    """Return `classes`, each once. Raises ConfigError, naming `option`, for one that the model does not have."""
    unknown = [label for label in classes if not 0 <= label < num_classes]
    if unknown:
        raise ConfigError(
            f"{option}: there is no class {', '.join(map(str, unknown))}; this run has classes 0 to {num_classes - 1}"
        )
    return list(dict.fromkeys(classes))

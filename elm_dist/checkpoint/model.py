"""The whole model of a run, for uses on one process. Knows nothing of engines and of what it is used for."""

import hashlib
from typing import Literal

import torch

from elm_dist.checkpoint.convert import KINDS
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.config import Config
from elm_dist.model.elm import ELM, layer_specs

Weights = Literal["ema", "raw"]


def load_model(checkpoint: Checkpoint, config: Config, weights: Weights) -> ELM:
    """Return the model on the CPU in fp32, in evaluation mode and without gradients."""
    with torch.device("meta"):  # so that no weights are drawn only to be replaced
        model = ELM(layer_specs(config.model, config.tokenizer.grid))
    kind = KINDS[weights]
    tensors = {name: checkpoint.read(kind, name, tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


def weight_files(checkpoint: Checkpoint, weights: Weights) -> list[str]:
    """Return the names of the files that hold them, in order."""
    return sorted(file for file in checkpoint.files if file.startswith(f"{KINDS[weights]}-"))


def weights_sha256(checkpoint: Checkpoint, weights: Weights) -> str:
    """Return 64 hex digits that change with any weight; `elm sample` writes the same into sampling.json."""
    sums = [f"{file} {checkpoint.files[file]['sha256']}" for file in weight_files(checkpoint, weights)]
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()

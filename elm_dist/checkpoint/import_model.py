"""Imports the weights of a published transformer: they become the checkpoint of step 0 of a run, to sample from.

The tokenizers' are imported by `official.py`. Knows nothing of who published what; the run's configuration says which
model it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from elm_dist.checkpoint.latest import CHECKPOINTS
from elm_dist.checkpoint.layouts import Tensors
from elm_dist.checkpoint.model_layouts import official_names
from elm_dist.checkpoint.official import unwrap
from elm_dist.checkpoint.run_folder import CONFIG
from elm_dist.checkpoint.store import CheckpointStore
from elm_dist.checkpoint.tokenizer import describe_odd_tensors
from elm_dist.config import Config
from elm_dist.config_file import dump_config
from elm_dist.errors import CheckpointError
from elm_dist.files import replace_text
from elm_dist.model.elm import ELM, layer_specs
from elm_dist.tokenizers.published import load_published


def import_model(path: Path, config: Config) -> int:
    """Write the weights of `path`, a .pth or .safetensors, into the new run of `config`; return their number.

    They are its averaged weights and those of the step. Raises CheckpointError where there is a run already, and for
    a file that cannot be read or holds another model, TokenizerError for a .pth that holds code.
    """
    run = config.run.directory
    if run.exists() and any(run.iterdir()):
        raise CheckpointError(f"{run} is not empty; set run.directory to a new folder")
    found = _load(path)
    with torch.device("meta"):
        model = ELM(layer_specs(config.model, config.tokenizer.grid)).state_dict()
    names = official_names(config.model)
    if odd := describe_odd_tensors(found, {names[ours]: tensor for ours, tensor in model.items()}):
        raise CheckpointError(
            f"{path}: its tensors are not those of the configuration's model: {odd}; give the configuration of the "
            "model that it is, such as one of configs/"
        )
    weights = {ours: found[theirs].float() for ours, theirs in names.items()}
    with CheckpointStore(run / CHECKPOINTS, config.checkpoint) as store:
        store.save(_Imported(weights), 0, {"data": f"imported from {path.name}", "samples_seen": 0})
    replace_text(run / CONFIG, dump_config(config))
    return sum(tensor.numel() for tensor in weights.values())


def _load(path: Path) -> Tensors:
    if path.suffix != ".safetensors":
        return unwrap(load_published(path))
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: this file cannot be read ({error}); give a file of weights") from None


@dataclass(frozen=True)
class _Imported:
    """What a checkpoint store saves of an engine, here whole tensors in one process, which is its own layout."""

    weights: Tensors
    rank: int = 0
    world_size: int = 1
    replica: int = 0
    replicas: int = 1

    def __str__(self) -> str:
        return "an import"

    @property
    def state(self) -> "_Imported":
        return self

    @property
    def layout(self) -> "_Imported":
        return self

    @property
    def kinds(self) -> list[str]:
        return ["weights", "ema"]

    @property
    def names(self) -> list[str]:
        return list(self.weights)

    def shape(self, name: str) -> torch.Size:
        return self.weights[name].shape

    def is_replicated(self, name: str) -> bool:
        return True

    def piece(self, kind: str, name: str) -> tuple[int, Tensor]:
        return 0, self.weights[name].view(-1)

    def scatter(self, kind: str, name: str, read: Callable[[int, int], Tensor]) -> None:
        raise AssertionError("an import is not loaded into")

    def barrier(self) -> None:
        """There is no other process."""

    def agree(self, here: bool) -> bool:
        return here

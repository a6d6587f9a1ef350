"""Reads a file of weights that others have published, whatever it is of: a bare set of tensors, or a training's.

    {name: tensor, ...}                        .pth, or .safetensors
    {"model": ..., "ema": ..., "args": ...}    what a training writes: the weights, their average, and more
    {"state_dict": ...}                        likewise

No code of a file is run. Knows nothing of what the tensors mean.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from elm_dist.checkpoint.layouts import Tensors
from elm_dist.errors import CheckpointError
from elm_dist.tokenizers.published import load_published


@dataclass(frozen=True)
class Published:
    """The tensors of a file by name. Where it has two sets, `averaged` are those that were measured."""

    path: Path
    averaged: Tensors
    raw: Tensors | None

    def floats(self, tensors: Tensors, names: dict[str, str]) -> Tensors:
        """Return, by other names, fp32 tensors; `names` says which of `tensors` each is.

        Raises CheckpointError for whole numbers, which no weights are.
        """
        for theirs in names.values():
            if not tensors[theirs].is_floating_point():
                raise CheckpointError(
                    f"{self.path}: {theirs} is {tensors[theirs].dtype}, and weights are floating-point numbers; give "
                    "the file as it was published"
                )
        return {ours: tensors[theirs].float() for ours, theirs in names.items()}


def read_published(path: Path) -> Published:
    """Return the tensors of the file `path`, none where there are none.

    Raises TokenizerError for a .pth that holds code or is damaged, CheckpointError for a damaged .safetensors.
    """
    tree = _load(path)
    named = (tree[key] for key in ("ema", "model", "state_dict") if isinstance(tree.get(key), dict))
    sets = [tensors for each in named if (tensors := _tensors(each))]
    averaged, raw, *_ = [*(sets or [_tensors(tree)]), None]
    return Published(path, averaged, raw)


def _load(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: this file cannot be read ({error}); give a file of weights") from None
    tree = load_published(path)
    return tree if isinstance(tree, dict) else {}


def _tensors(tree: dict[Any, Any]) -> Tensors:
    return {name: value for name, value in tree.items() if isinstance(name, str) and isinstance(value, Tensor)}

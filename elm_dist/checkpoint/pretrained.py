"""Reads back what `elm export RUN --to safetensors` wrote: the model that its `config.json` describes.

    config.json                             the model, the tokenizer whose grid it draws, the type of the weights
    model.safetensors                       the weights; or, in several files,
    model.safetensors.index.json            which of these has which tensor

Every tensor must be accounted for. Knows nothing of runs and their checkpoints.
"""

import json
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from elm_dist.checkpoint.stream import DTYPES
from elm_dist.checkpoint.tokenizer import CONFIG_FILE, WEIGHTS_FILE, describe_odd_tensors
from elm_dist.config import ModelConfig, TokenizerConfig
from elm_dist.config_rules.every_rule import broken_rules
from elm_dist.errors import CheckpointError
from elm_dist.model.elm import ELM, layer_specs

INDEX_FILE = "model.safetensors.index.json"
AGAIN = "copy the whole folder again, or export anew with `elm export RUN --to safetensors`"


class Description(BaseModel):
    """What of an export's `config.json` it takes to build the model."""

    model: ModelConfig
    tokenizer: TokenizerConfig
    dtype: Literal["fp32", "bf16"]


def load_pretrained(folder: Path | str) -> ELM:
    """Return the exported model on the CPU, in the type that it was exported in.

    It is in evaluation mode and without gradients; `model.requires_grad_()` gives it some. Raises CheckpointError for a
    folder that is missing or lacks a file, a `config.json` that describes no model of ours, and tensors that are
    damaged, missing, left over, or of another shape or type than it says.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: there is no such folder; give one that `elm export RUN --to safetensors` wrote"
        )
    described = _read_description(folder)
    tensors = {name: tensor for path in _weight_files(folder) for name, tensor in _read_tensors(path).items()}
    with torch.device("meta"):  # so that no weights are drawn only to be replaced
        model = ELM(layer_specs(described.model, described.tokenizer.grid))
    if odd := describe_odd_tensors(tensors, model.state_dict()):
        raise CheckpointError(f"{folder}: its tensors are not those of the model in {CONFIG_FILE}: {odd}; {AGAIN}")
    dtype = DTYPES[described.dtype]
    if others := [name for name, tensor in tensors.items() if tensor.dtype != dtype]:
        raise CheckpointError(
            f"{folder}: {others[0]} is {tensors[others[0]].dtype} and should be {dtype}, as {CONFIG_FILE} says; {AGAIN}"
        )
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


def _read_description(folder: Path) -> Description:
    path = folder / CONFIG_FILE
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        tree["tokenizer"]["directory"] = folder  # where it lies is not a part of an export
        described = Description.model_validate(tree)
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: {CONFIG_FILE} is missing; {AGAIN}") from None
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg'].lower()}" for each in error.errors())
        raise CheckpointError(f"{path}: it describes no model that this elm-dist knows: {reasons}; {AGAIN}") from None
    except (OSError, ValueError, KeyError, TypeError):  # no JSON, or that of something else
        raise CheckpointError(f"{path}: this is no description of a model of ours; {AGAIN}") from None
    for where, problem in broken_rules({"model": described.model, "tokenizer": described.tokenizer}):
        raise CheckpointError(f"{path}: {where}: {problem}; {AGAIN}")
    return described


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that have the weights; raises CheckpointError if one of them is missing."""
    index = folder / INDEX_FILE
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if not index.is_file():
        raise CheckpointError(f"{folder}: there is neither {WEIGHTS_FILE} nor {INDEX_FILE}; {AGAIN}")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index}: this is no index of weights; {AGAIN}") from None
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder}: {missing[0]}, which {INDEX_FILE} names, is missing; {AGAIN}")
    return [folder / name for name in names]


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: this file is damaged ({error}); {AGAIN}") from None

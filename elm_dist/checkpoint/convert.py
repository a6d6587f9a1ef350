"""Writes the weights of a checkpoint as plain safetensors, under the names and in the shapes of any layout.

    model.safetensors                       or, of more than 5 GB, model-00001-of-00003.safetensors and so on, and
    model.safetensors.index.json            which of these files has which tensor

One tensor is in memory at a time. Knows nothing of what else lies in the folder.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from elm_dist.checkpoint.model_layouts import ModelLayout, meta_tensors
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.checkpoint.stream import write_safetensors
from elm_dist.config import Config
from elm_dist.files import replace_text, replacing

SHARD_BYTES = 5 * 10**9
KINDS = {"ema": "ema", "raw": "weights"}  # what users call them, and what checkpoints do
Shapes = dict[str, torch.Size]


def write_weights(
    checkpoint: Checkpoint,
    kind: str,
    config: Config,
    layout: ModelLayout,
    folder: Path,
    dtype: torch.dtype,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Write the weights of `kind`, of the model of `config`, into `folder`; return the number of parameters.

    A file has up to `shard_bytes`, or one tensor. Raises CheckpointError for a checkpoint of another model.
    """
    model = meta_tensors(config.model, config.tokenizer.grid)

    def read(name: str) -> torch.Tensor:
        return checkpoint.read(kind, name, model[name].shape)

    shapes = {name: make(model.__getitem__).shape for name, make in layout.items()}
    divided = list(_divide(shapes, shard_bytes // dtype.itemsize))
    files = {_file_name(number, len(divided)): part for number, part in enumerate(divided, start=1)}
    for file, part in files.items():
        with replacing(folder / file) as scratch:
            write_safetensors(scratch, part, dtype, (layout[name](read) for name in part))
    parameters = sum(shape.numel() for shape in shapes.values())
    if len(files) > 1:
        index = {
            "metadata": {"total_size": parameters * dtype.itemsize},
            "weight_map": {name: file for file, part in files.items() for name in part},
        }
        replace_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")
    return parameters


def _divide(shapes: Shapes, limit: int) -> Iterator[Shapes]:
    """Yield the shapes of each file; a file has up to `limit` elements, or one tensor."""
    part: Shapes = {}
    for name, shape in shapes.items():
        if part and sum(each.numel() for each in part.values()) + shape.numel() > limit:
            yield part
            part = {}
        part[name] = shape
    yield part


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"

"""Writes the weights of a run as plain safetensors with a `config.json`, in the form that model hubs expect.

    model.safetensors                       or, of more than 5 GB, model-00001-of-00003.safetensors and so on, and
    model.safetensors.index.json            which of these files has which tensor
    config.json                             written last: a folder that has it is complete

For use elsewhere: a run goes on from its checkpoints on any layout as they are. One tensor is in memory at a time.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from elm_dist.checkpoint.run_folder import choose_checkpoint, load_run_config
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.checkpoint.stream import DTYPES, write_safetensors
from elm_dist.checkpoint.tokenizer import architecture
from elm_dist.errors import CheckpointError
from elm_dist.files import replace_text, replacing

CONFIG_FILE = "config.json"
SHARD_BYTES = 5 * 10**9
KINDS = {"ema": "ema", "raw": "weights"}  # what users call them, and what checkpoints do


def convert_run(
    run: Path,
    out: Path,
    *,
    weights: Literal["ema", "raw"] = "ema",
    dtype: Literal["fp32", "bf16"] = "fp32",
    step: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Checkpoint:
    """Write the weights of the newest good checkpoint, or of `step`, into the new folder `out`; return the checkpoint.

    Raises CheckpointError for a folder that is no run or has no such checkpoint, and where `out` holds anything.
    """
    config = load_run_config(run)
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty; give a new folder")
    kind = KINDS[weights]
    checkpoint = choose_checkpoint(run, step, lambda files: [file for file in files if file.startswith(f"{kind}-")])
    shards = list(_divide(checkpoint, shard_bytes // DTYPES[dtype].itemsize))
    files = {_file_name(number, len(shards)): names for number, names in enumerate(shards, start=1)}
    for file, names in files.items():
        with replacing(out / file) as scratch:
            shapes = {name: checkpoint.shapes[name] for name in names}
            values = (checkpoint.read(kind, name, checkpoint.shapes[name]) for name in names)
            write_safetensors(scratch, shapes, DTYPES[dtype], values)
    parameters = sum(shape.numel() for shape in checkpoint.shapes.values())
    if len(files) > 1:
        index = {
            "metadata": {"total_size": parameters * DTYPES[dtype].itemsize},
            "weight_map": {name: file for file, names in files.items() for name in names},
        }
        _write_json(out / "model.safetensors.index.json", index)
    facts = {
        "model": config.model.model_dump(mode="json"),
        "tokenizer": architecture(config.tokenizer),
        "weights": weights,
        "dtype": dtype,
        "parameters": parameters,
        "step": checkpoint.step,
        **checkpoint.facts,
    }
    _write_json(out / CONFIG_FILE, facts)
    return checkpoint


def _divide(checkpoint: Checkpoint, limit: int) -> Iterator[list[str]]:
    """Yield the names of each file; a file has up to `limit` elements, or one tensor."""
    names: list[str] = []
    elements = 0
    for name, shape in checkpoint.shapes.items():
        if names and elements + shape.numel() > limit:
            yield names
            names, elements = [], 0
        names.append(name)
        elements += shape.numel()
    yield names


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    replace_text(path, json.dumps(content, indent=2) + "\n")

"""Shards of codes that a test chooses, written by the product's own writer."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from elm_dist.codes.packing import subtokens_to_bits
from elm_dist.data.shards import Manifest, Payload
from elm_dist.data.writer import ShardWriter


def write_token_shards(
    directory: Path,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    code_bits: int,
    *,
    shard_samples: int = 1000,
    payload: Payload = "bits",
) -> Path:
    """Write codes (images, side x side) of both splits as shards into `directory`, and return it.

    The payload "probabilities" stores certainties, so that any draw gives these codes.
    """
    side = round(train.shape[1] ** 0.5)
    splits = {"train": train, "validation": validation}
    manifest = Manifest.model_validate(
        {
            "tokenizer_fingerprint": "ab12",
            "payload": payload,
            "code_bits": code_bits,
            "grid": side,
            "image_size": 16 * side,
            "record_rows": 64,
            "classes": ("any",),
            "seed": 0,
            "flip": False,
            "images": {split: len(codes) for split, codes in splits.items()},
        }
    )
    writer = ShardWriter(directory, manifest)
    files: dict[str, list[str]] = {split: [] for split in splits}
    for split, codes in splits.items():
        for number, start in enumerate(range(0, len(codes), shard_samples)):
            part = torch.from_numpy(codes[start : start + shard_samples]).unsqueeze(2)
            bits = subtokens_to_bits(part, code_bits).flatten(1).numpy()
            stored = 255 * bits if payload == "probabilities" else np.packbits(bits, axis=1)
            files[split].append(f"{split}-{number:06d}.tar")
            writer.write(files[split][-1], stored, np.zeros(len(part), np.uint16))
    writer.finish(files)
    return directory

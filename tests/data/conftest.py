"""Shards of samples that carry their own stored index, so that a test can see which sample it was given."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from elm_dist.data.shards import Manifest, ShardWriter

WriteShards = Callable[..., Path]

CLASSES = ("cat", "coffee", "rocket")


def index_codes(indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return codes of 8 bytes, 2 x 2 positions x 16 bits, that spell the index."""
    return indices.astype(">u8").view(np.uint8).reshape(-1, 8)


def index_labels(indices: NDArray[np.int64]) -> NDArray[np.uint16]:
    return (indices % len(CLASSES)).astype(np.uint16)


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        tokenizer_fingerprint="ab12",
        code_bits=16,
        grid=2,
        image_size=32,
        record_rows=8,
        classes=CLASSES,
        seed=0,
        flip=False,
        images={"train": 50, "validation": 10},
    )


@pytest.fixture
def write_shards(tmp_path: Path, manifest: Manifest) -> WriteShards:
    """Return a function that writes a finished set of shards and returns its folder, a new one at each call."""

    def write(train: int = 50, validation: int = 10, shard_samples: int = 20, record_rows: int = 8) -> Path:
        directory = Path(tempfile.mkdtemp(dir=tmp_path))
        writer = ShardWriter(directory, manifest.model_copy(update={"record_rows": record_rows}))
        for split, samples in (("train", train), ("validation", validation)):
            for start in range(0, samples, shard_samples):
                indices = np.arange(start, min(start + shard_samples, samples))
                writer.write(split, index_codes(indices), index_labels(indices))
        writer.finish()
        return directory

    return write

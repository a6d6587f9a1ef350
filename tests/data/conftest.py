"""Shards of samples that carry their own stored index, so that a test can see which sample it was given."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from encoding import SIDE, TRAIN, VALIDATION, build_tokenizer
from numpy.typing import NDArray
from PIL import Image

from elm_dist.data.shards import Manifest
from elm_dist.data.writer import ShardWriter
from elm_dist.tokenizers.bae import BAE

WriteShards = Callable[..., Path]

PHOTOGRAPHS = {"cat": skimage.data.chelsea, "coffee": skimage.data.coffee, "rocket": skimage.data.rocket}
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
        files: dict[str, list[str]] = {"train": [], "validation": []}
        for split, samples in (("train", train), ("validation", validation)):
            for number, start in enumerate(range(0, samples, shard_samples)):
                indices = np.arange(start, min(start + shard_samples, samples))
                files[split].append(f"{split}-{number:06d}.tar")
                writer.write(files[split][-1], index_codes(indices), index_labels(indices))
        writer.finish(files)
        return directory

    return write


@pytest.fixture(scope="module")
def tokenizer() -> BAE:
    return build_tokenizer()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiles of real photographs, three classes."""
    root = tmp_path_factory.mktemp("images")
    for name, photograph in PHOTOGRAPHS.items():
        pixels = photograph()
        rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
        tiles = pixels[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)
        tiles = tiles.reshape(-1, SIDE, SIDE, 3)[:: rows * columns // (TRAIN + VALIDATION)][: TRAIN + VALIDATION]
        for number, tile in enumerate(tiles):
            path = root / ("train" if number < TRAIN else "validation") / name / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(tile).save(path)
    return root


@pytest.fixture
def own_images(images: Path, tmp_path: Path) -> Path:
    """A copy of the images that a test may change."""
    return Path(shutil.copytree(images, tmp_path / "images"))

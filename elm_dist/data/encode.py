"""Turns a folder of images into token shards, once, so that no run encodes an image again.

The samples are shuffled here, over the whole set. A run that was killed goes on at its last complete shard and ends
with the same bytes as one that was not. Knows nothing of the model that will read the shards.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from elm_dist.data.images import ImageFolder, has_split
from elm_dist.data.shards import Manifest, ShardWriter, Split
from elm_dist.randomness import generator, uniforms
from elm_dist.tokenizers.bae import BAE

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # called with (samples encoded, samples in all)
Batch = tuple[NDArray[np.uint8], list[int]]  # images (batch, S, S, 3), labels

HELD_OUT = 0.02  # share of the training images that is the validation split where the folder has none
DECODERS = 8  # threads: Pillow lets go of the interpreter while it decodes


def encode_images(
    images_root: Path,
    tokenizer: BAE,
    fingerprint: str,
    out: Path,
    *,
    batch_size: int,
    seed: int,
    flip: bool,
    progress: Progress,
    record_rows: int = 1024,
    shard_samples: int = 200 * 1024,  # 100 MB of 512-byte codes
) -> Manifest:
    """Write the images of `images_root` as shards into `out`, on the device of `tokenizer`; return their manifest.

    `flip` stores each training image a second time, mirrored. A finished folder is reused. Raises ImageError for an
    image that cannot be used, and ShardError if `out` holds anything else than a part of these very shards.
    """
    config = tokenizer.config
    sources = _load_sources(images_root, config.image_size, seed, flip)
    manifest = Manifest(
        tokenizer_fingerprint=fingerprint,
        code_bits=config.code_bits,
        grid=config.grid,
        image_size=config.image_size,
        record_rows=record_rows,
        classes=tuple(sources["train"].folder.names),
        seed=seed,
        flip=flip,
        images={split: len(np.unique(source.indices)) for split, source in sources.items()},
    )
    writer = ShardWriter(out, manifest)
    total = sum(len(source.indices) for source in sources.values())
    done = sum(writer.manifest.samples(split) for split in sources)
    if done:
        logger.info("%s: %s of %s samples are there already and are kept", out, f"{done:,}", f"{total:,}")
    for split, source in sources.items():
        for start in range(writer.manifest.samples(split), len(source.indices), shard_samples):
            shard = source.part(slice(start, start + shard_samples))
            codes = np.empty((len(shard.indices), manifest.packed_bytes), np.uint8)
            labels = np.empty(len(shard.indices), np.uint16)
            for batch, (images, batch_labels) in _load_ahead(shard, batch_size):
                codes[batch], labels[batch] = _encode(tokenizer, images), batch_labels
                done += len(images)
                progress(done, total)
            writer.write(split, codes, labels)
    return writer.finish()


class _Source(NamedTuple):
    """Samples of one split in the order in which they are stored."""

    folder: ImageFolder
    indices: NDArray[np.int64]  # of the images in the folder
    mirrored: NDArray[np.bool_]

    def part(self, rows: slice) -> "_Source":
        return _Source(self.folder, self.indices[rows], self.mirrored[rows])

    def load(self) -> Batch:
        pairs = [self.folder[index] for index in self.indices.tolist()]
        images = [image[:, ::-1] if mirror else image for (image, _), mirror in zip(pairs, self.mirrored, strict=True)]
        return np.stack(images), [label for _, label in pairs]


def _load_sources(root: Path, image_size: int, seed: int, flip: bool) -> dict[Split, _Source]:
    """Return the shuffled samples of both splits."""
    train = ImageFolder(root, "train", image_size)
    indices = np.arange(len(train))
    if has_split(root, "validation"):
        validation = ImageFolder(root, "validation", image_size)
        held_out = np.arange(len(validation))
    else:
        validation = train
        by_chance = np.argsort(uniforms(seed, "held out", indices))
        held_out, indices = np.split(by_chance, [max(1, round(HELD_OUT * len(train)))])
        logger.info("%s has no validation images: %s of its training images are held out", root, len(held_out))
    return {
        "train": _shuffled(train, indices, flip, seed, "train"),
        "validation": _shuffled(validation, held_out, False, seed, "validation"),
    }


def _shuffled(folder: ImageFolder, indices: NDArray[np.int64], flip: bool, seed: int, split: Split) -> _Source:
    count = len(indices)
    order = generator(seed, "shard order", split).permutation(2 * count if flip else count)
    return _Source(folder, indices[order % count], mirrored=order >= count)


def _load_ahead(source: _Source, batch_size: int) -> Iterator[tuple[slice, Batch]]:
    """Yield the batches in order, while threads decode the next ones behind the encoder's back."""
    waiting: deque[tuple[slice, Future[Batch]]] = deque()
    with ThreadPoolExecutor(DECODERS) as pool:
        for start in range(0, len(source.indices), batch_size):
            rows = slice(start, start + batch_size)
            waiting.append((rows, pool.submit(source.part(rows).load)))
            if len(waiting) > DECODERS:
                rows, batch = waiting.popleft()
                yield rows, batch.result()
        for rows, batch in waiting:
            yield rows, batch.result()


def _encode(tokenizer: BAE, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the packed codes, (batch, packed_bytes), of images (batch, S, S, 3)."""
    pixels = torch.from_numpy(images).to(next(tokenizer.parameters()).device)
    codes = tokenizer.image_codes(pixels.permute(0, 3, 1, 2).contiguous().float() / 255)
    return codes.cpu().numpy()

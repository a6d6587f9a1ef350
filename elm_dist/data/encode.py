"""Turns images into token shards, once, so that no run encodes an image again.

Which samples and which batches of the encoder a shard is made of follows from the images alone: so any number of
processes, killed and started again at will, leave the bytes of one undisturbed process. Knows nothing of the model that
will read the shards.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from elm_dist.data.samples import LoadedSamples, Samples, list_samples
from elm_dist.data.shards import Manifest, Payload, Split, Views
from elm_dist.data.writer import ShardWriter, wait_for
from elm_dist.errors import ImageError, TokenizerError
from elm_dist.tokenizers.bae import BAE
from elm_dist.tokenizers.build import Tokenizer

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # called with (samples encoded, samples in all) of this process

DECODERS = 8  # threads: Pillow lets go of the interpreter while it decodes


def encode_images(
    images_root: Path,
    tokenizer: Tokenizer,
    fingerprint: str,
    out: Path,
    *,
    batch_size: int,
    seed: int,
    flip: bool,
    views: Views,
    payload: Payload,
    max_broken: float,
    progress: Progress,
    rank: int = 0,
    world_size: int = 1,
    record_rows: int = 1024,
    shard_samples: int = 200 * 1024,  # 100 MB of 512-byte codes
) -> Manifest | None:
    """Write this process's share of the shards of `images_root` into `out`, on the device of `tokenizer`.

    Process 0 waits for the shards of the others and returns the manifest, the others return None. `flip` stores each
    training image a second time, mirrored. Images that cannot be read are left out; if they are more than the share
    `max_broken` of all, that is an ImageError. The payload "probabilities" stores what the bits of a BAE are drawn
    from, and is a TokenizerError for others. A finished folder is reused. Raises ShardError if `out` holds
    anything else than a part of these very shards.
    """
    if payload == "probabilities" and not isinstance(tokenizer, BAE):
        raise TokenizerError("--payload probabilities: this tokenizer has none, it is no BAE; use --payload bits")
    config = tokenizer.config
    samples = list_samples(images_root, config.image_size, seed, flip=flip, views=views)
    plan = Manifest(
        tokenizer_fingerprint=fingerprint,
        payload=payload,
        code_bits=config.code_bits,
        grid=config.grid,
        image_size=config.image_size,
        record_rows=record_rows,
        classes=tuple(samples["train"].images.names),
        seed=seed,
        flip=flip,
        views=views,
        images={split: len(np.unique(part.indices)) for split, part in samples.items()},
    )
    writer = ShardWriter(out, plan, is_main=rank == 0)
    shards = [shard for split, part in samples.items() for shard in _cut(split, part, shard_samples)]
    broken = _BrokenImages(images_root, sum(plan.images.values()), max_broken)
    _encode_shards(shards[rank::world_size], writer, tokenizer, batch_size, broken, progress)
    if rank != 0:
        return None
    wait_for(lambda: _are_good(shards, writer, broken), "the shards of the other processes")
    return writer.finish({split: [shard.file for shard in shards if shard.split == split] for split in samples})


class _Shard(NamedTuple):
    split: Split
    file: str
    samples: Samples  # that belong into it, readable or not


def _cut(split: Split, samples: Samples, shard_samples: int) -> Iterator[_Shard]:
    for number, start in enumerate(range(0, len(samples), shard_samples)):
        yield _Shard(split, f"{split}-{number:06d}.tar", samples.part(slice(start, start + shard_samples)))


class _BrokenImages:
    """The images that this process knows to be unreadable, and how many may be."""

    def __init__(self, root: Path, images: int, max_share: float) -> None:
        self._root, self._images, self._allowed = root, images, int(images * max_share)
        self._names: set[str] = set()

    def add(self, names: Iterable[str]) -> None:
        """Take note of them; raises ImageError when there are too many."""
        self._names.update(names)
        if len(self._names) > self._allowed:
            raise ImageError(
                f"{self._root}: {len(self._names):,} of {self._images:,} images cannot be read, such as "
                f"{min(self._names)}, but at most {self._allowed:,} may be left out; mend them and run the same "
                "command again, or allow a larger share with --max-broken"
            )


def _is_good(shard: _Shard, writer: ShardWriter) -> bool:
    """Return whether the shard is there and lacks no image that has been mended since."""
    return writer.is_intact(shard.file) and not shard.samples.has_readable(writer.skipped(shard.file))


def _are_good(shards: list[_Shard], writer: ShardWriter, broken: _BrokenImages) -> bool:
    """Return whether all shards are there, and take note of what those that are there lack."""
    good = [shard for shard in shards if _is_good(shard, writer)]
    for shard in good:
        broken.add(writer.skipped(shard.file))
    return len(good) == len(shards)


def _encode_shards(
    shards: list[_Shard],
    writer: ShardWriter,
    tokenizer: Tokenizer,
    batch_size: int,
    broken: _BrokenImages,
    progress: Progress,
) -> None:
    """Encode and write those of the shards that are not there yet."""
    missing = []
    for shard in shards:
        if _is_good(shard, writer):
            broken.add(writer.skipped(shard.file))
        else:
            missing.append(shard)
    total = sum(len(shard.samples) for shard in shards)
    done = total - sum(len(shard.samples) for shard in missing)
    if done:
        logger.info("%s: %s of %s samples are there already and are kept", writer.directory, f"{done:,}", f"{total:,}")
    if missing:
        progress(done, total)
    for shard in missing:
        codes, labels = [np.empty((0, writer.plan.sample_bytes), np.uint8)], [np.empty(0, np.uint16)]
        skipped: set[str] = set()
        for count, batch in _load_ahead(shard.samples, batch_size):
            skipped |= batch.broken
            if len(batch.labels):
                codes.append(_encode(tokenizer, batch.images, writer.plan.payload))
                labels.append(batch.labels)
            done += count
            progress(done, total)
        writer.write(shard.file, np.concatenate(codes), np.concatenate(labels), skipped)
        broken.add(skipped)  # only now: from the entry of the shard, process 0 learns that there are too many


def _load_ahead(samples: Samples, batch_size: int) -> Iterator[tuple[int, LoadedSamples]]:
    """Yield the batches in order, with their number of samples, while threads decode the next ones meanwhile."""
    waiting: deque[tuple[int, Future[LoadedSamples]]] = deque()
    with ThreadPoolExecutor(DECODERS) as pool:
        for start in range(0, len(samples), batch_size):
            part = samples.part(slice(start, start + batch_size))
            waiting.append((len(part), pool.submit(part.load)))
            if len(waiting) > DECODERS:
                count, batch = waiting.popleft()
                yield count, batch.result()
        for count, batch in waiting:
            yield count, batch.result()


def _encode(tokenizer: Tokenizer, images: NDArray[np.uint8], payload: Payload) -> NDArray[np.uint8]:
    """Return what is stored, (batch, sample_bytes), of images (batch, height, width, 3)."""
    pixels = torch.from_numpy(images).to(next(tokenizer.parameters()).device)
    pixels = pixels.permute(0, 3, 1, 2).contiguous().float() / 255
    if payload == "bits":
        return tokenizer.image_codes(pixels).cpu().numpy()
    with torch.no_grad():
        probabilities = tokenizer.encode(pixels).flatten(2).transpose(1, 2).flatten(1)
    return (probabilities * 255).round().to(torch.uint8).cpu().numpy()

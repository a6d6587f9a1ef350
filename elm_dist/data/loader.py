"""The samples of a run in their exact order: what is read is a function of the seed and the position alone.

Training is one endless stream of positions; position p lies in epoch p // samples. A process that reads position p gets
the same sample whatever it read before and however many processes there are, so the only state to save is one integer:
the samples seen. This holds even where shards are bad. Knows nothing of processes, models and devices.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.codes.scan import scan_order
from elm_dist.config import Config
from elm_dist.data.payload import draw_codes, likeliest_codes, reorder_codes
from elm_dist.data.shards import ShardReader, load_manifest
from elm_dist.data.substitutes import SubstitutingReader
from elm_dist.model.masking import append_mask, hidden_cells
from elm_dist.randomness import generator, uniforms

BLOCK = 1024  # samples that lie side by side in the shards and are shuffled as one
GROUP = 64  # blocks whose samples are shuffled among each other
VALIDATION_SEED = 0  # of masks: whatever the run's seed, it is measured by the same ones


@dataclass(frozen=True)
class MicroBatch:
    codes: Tensor  # (batch, masking.row_bytes), uint8: packed in scan order, and of a masked model the mask
    labels: Tensor  # (batch,), int64
    positions: NDArray[np.int64]  # (batch,): in the stream of training samples, or in the stored order of validation


class TokenLoader:
    """Micro-batches of the shards in `directory`, for training in shuffled and for validation in stored order.

    A training label is `null_class` instead for a share `class_dropout` of the positions. Where shards
    hold probabilities, bits are drawn for each position of training, and rounded for validation. Codes come in the
    order of `scan`; with `masking`, a value of `loss.mask_ratio`, each image has a mask, in validation always the same.

    A position whose sample lies in a shard that turns out to be missing or damaged gets what the position BLOCK further
    on gets. With `verify`, checksums are compared too, each when its shard is first touched. Raises ShardError if there
    are no shards, when more than the share `max_bad_shards` of those for training are bad, and for any bad one for
    validation, which would measure something else without it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        seed: int,
        global_batch_size: int,
        micro_batch_size: int,
        class_dropout: float,
        null_class: int,
        max_bad_shards: float = 0.0,
        verify: bool = False,
        scan: str = "row_raster",
        masking: str | None = None,
    ) -> None:
        self.manifest = load_manifest(directory)
        self.seed = seed
        self.global_batch_size, self.micro_batch_size = global_batch_size, micro_batch_size
        self.class_dropout, self.null_class = class_dropout, null_class
        self._order, self._masking = scan_order(scan, self.manifest.grid), masking
        self._samples = self.manifest.samples("train")
        self._train = SubstitutingReader(ShardReader(directory, self.manifest, "train", verify=verify), max_bad_shards)
        self._validation = ShardReader(directory, self.manifest, "validation", verify=verify)

    @property
    def replaced_samples(self) -> int:
        """Training samples that this process read in place of those in bad shards."""
        return self._train.replaced

    @property
    def bad_shards(self) -> int:
        """Bad shards that this process came across in training."""
        return self._train.bad_shards

    def train_micro_batch(self, step: int, index: int) -> MicroBatch:
        """Return the micro-batch `index` of the global batch of `step`.

        With R replicas that accumulate A micro-batches, replica r takes the indices r * A to (r + 1) * A - 1.
        """
        return self.micro_batch(step * self.global_batch_size + index * self.micro_batch_size)

    def train_samples(self, step: int) -> NDArray[np.int64]:
        """Return which samples, in stored order, the global batch of `step` holds, as long as their shards are good."""
        size = self.global_batch_size
        return stored_indices(self.seed, self._samples, step * size, size)

    def micro_batch(self, position: int) -> MicroBatch:
        """Return the micro-batch that starts at `position` of the endless stream of training samples."""
        positions = np.arange(position, position + self.micro_batch_size)
        stored, labels = self._train.read(
            lambda attempt: stored_indices(self.seed, self._samples, position + attempt * BLOCK, self.micro_batch_size)
        )
        codes = draw_codes(stored, self.manifest, self.seed, positions)
        dropped = uniforms(self.seed, "class_dropout", positions) < self.class_dropout
        return self._finish(codes, np.where(dropped, self.null_class, labels), positions, self.seed)

    def validation_micro_batch(self, step: int, index: int) -> MicroBatch:
        """Return micro-batch `index` of global batch `step` in stored order; the last of the split may be shorter."""
        start = step * self.global_batch_size + index * self.micro_batch_size
        positions = np.arange(start, min(start + self.micro_batch_size, len(self._validation)))
        stored, labels = self._validation.read(positions)
        return self._finish(likeliest_codes(stored, self.manifest), labels, positions, VALIDATION_SEED)

    def _finish(
        self, codes: NDArray[np.uint8], labels: NDArray[np.integer], positions: NDArray[np.int64], seed: int
    ) -> MicroBatch:
        """Return the micro-batch of codes in raster order, as the model reads them."""
        rows = torch.from_numpy(reorder_codes(codes, self.manifest, self._order))
        if self._masking is not None:
            batches = positions // self.global_batch_size if self._masking == "per_batch" else None
            rows = append_mask(rows, hidden_cells(seed, len(self._order), positions, batches))
        return MicroBatch(rows, torch.from_numpy(labels.astype(np.int64)), positions)


def load_tokens(
    config: Config, *, global_batch_size: int, micro_batch_size: int, class_dropout: float, verify: bool
) -> TokenLoader:
    """Return the loader of a configuration's shards, for its model. Raises what TokenLoader does."""
    return TokenLoader(
        config.data.shards,
        seed=config.run.seed,
        global_batch_size=global_batch_size,
        micro_batch_size=micro_batch_size,
        class_dropout=class_dropout,
        null_class=config.model.num_classes,
        max_bad_shards=config.data.max_bad_shards,
        verify=verify,
        scan=config.model.scan,
        masking=config.loss.mask_ratio if config.model.modelling == "masked" else None,
    )


def stored_indices(seed: int, samples: int, position: int, count: int) -> NDArray[np.int64]:
    """Return which stored samples the positions from `position` on read, (count,).

    Each epoch permutes the blocks, then the samples within each group of blocks: a permutation of all samples at once
    would cost each process seconds and 100 MB per epoch, and would make every read a seek.
    """
    parts = []
    while count > 0:
        epoch, offset = divmod(position, samples)
        _, starts = _epoch_order(seed, epoch, samples)
        group = int(np.searchsorted(starts, offset, side="right")) - 1
        part = _group_order(seed, epoch, group, samples)[offset - starts[group] :][:count]
        parts.append(part)
        position, count = position + len(part), count - len(part)
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, samples: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the blocks in the order of an epoch, and at which position of the epoch each group of them starts."""
    blocks = generator(seed, "blocks", epoch).permutation(-(-samples // BLOCK))
    sizes = np.minimum(BLOCK, samples - blocks * BLOCK)  # the block at the end of the shards may be short
    return blocks, (np.cumsum(sizes) - sizes)[::GROUP]


@lru_cache(maxsize=4)
def _group_order(seed: int, epoch: int, group: int, samples: int) -> NDArray[np.int64]:
    """Return the stored indices of one group's samples in the order of an epoch."""
    blocks, _ = _epoch_order(seed, epoch, samples)
    members = blocks[group * GROUP : (group + 1) * GROUP]
    indices = np.concatenate([np.arange(block * BLOCK, min((block + 1) * BLOCK, samples)) for block in members])
    return generator(seed, "group", epoch, group).permutation(indices)

"""Masked modelling: which cells of an image are hidden, and how a micro-batch says so (MaskGIT; paper section 3.4).

A masked model's batch has the packed codes of an image and behind them the packed bits of its mask, in one row of
bytes: so the first layer, which hides codes, and the loss, which counts those alone, agree on any layout. What is
hidden depends on the seed and the sample alone. Knows nothing of processes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.codes.packing import pack_bits, unpack_bits
from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import ModelConfig
from elm_dist.randomness import uniforms

BATCH_STEPS = 10  # that one ratio for a whole batch is drawn from, as the published training does


def hidden_cells(seed: int, cells: int, samples: NDArray[np.int64], batches: NDArray[np.int64] | None) -> Tensor:
    """Return which cells (batch, cells), bool, are hidden of each of `samples`, at least one of each.

    Their share is the cosine of an angle that is drawn for each sample, or for each of the `batches` (batch,) that they
    belong to.
    """
    if batches is None:
        progress = uniforms(seed, "mask_ratio", samples)
    else:
        progress = np.floor(BATCH_STEPS * uniforms(seed, "mask_ratio", batches)) / BATCH_STEPS
    counts = np.maximum(1, np.floor(cells * np.cos(np.pi / 2 * progress)))
    draws = uniforms(seed, "mask", (samples[:, None] * cells + np.arange(cells)).ravel()).reshape(-1, cells)
    ranks = draws.argsort(axis=1).argsort(axis=1)
    return torch.from_numpy(ranks < counts[:, None])


def row_bytes(model: ModelConfig, shape: CodeShape) -> int:
    """Return the bytes of an image in a batch of `model`: those of its codes, and of its mask if it has one."""
    mask = CodeShape(shape.positions, 1, 1) if model.modelling == "masked" else None
    return shape.packed_bytes + (mask.packed_bytes if mask else 0)


def append_mask(packed: Tensor, is_hidden: Tensor) -> Tensor:
    """Return rows of bytes of packed codes (batch, packed_bytes) and a mask (batch, positions)."""
    return torch.cat([packed, pack_bits(is_hidden)], dim=1)


def split_mask(rows: Tensor, shape: CodeShape) -> tuple[Tensor, Tensor]:
    """Return the packed codes (batch, packed_bytes) and the mask (batch, positions), bool, of such rows."""
    mask_shape = CodeShape(shape.positions, 1, 1)
    packed, mask = rows.split([shape.packed_bytes, mask_shape.packed_bytes], dim=1)
    return packed, unpack_bits(mask, mask_shape).squeeze(2).bool()

"""Loads the kernels of csrc/ where they were compiled, and tells torch the shapes and gradients of their operations.

This is the one place that imports them. `_C` declares the operations and does them on the CPU, `_C_cuda` on the GPU; a
machine may have both, the first, or none. Knows nothing of when they are used: see `packing.py`.
"""

import importlib
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

ops = torch.ops.elm_dist
SIMD_LEVELS = ("scalar", "AVX2", "AVX512")  # of the CPU kernels


def _load() -> frozenset[str]:
    """Import the extension; return the types of devices that it serves."""
    devices: set[str] = set()
    for name, device in (("elm_dist.codes._C", "cpu"), ("elm_dist.codes._C_cuda", "cuda")):
        if find_spec(name) is None:
            break
        try:
            importlib.import_module(name)
        except ImportError as error:  # built for another torch, or without the GPU's libraries
            logger.warning("%s does not load, so plain torch does its work: %s", name, error)
            break
        devices.add(device)
    return frozenset(devices)


def _packed_shape(values: Tensor, samples: Tensor | None, seed: int) -> Tensor:
    return values.new_empty((values.shape[0], (values.shape[1] + 7) // 8), dtype=torch.uint8)


def _unpacked_shape(packed: Tensor, positions: int, subtokens: int, subtoken_bits: int, dtype: torch.dtype) -> Tensor:
    return packed.new_empty((packed.shape[0], positions, subtokens), dtype=dtype)


def _bits_shape(ids: Tensor, subtoken_bits: int) -> Tensor:
    return ids.new_empty((*ids.shape[:-1], ids.shape[-1] * subtoken_bits), dtype=torch.uint8)


def _embedded_shape(
    packed: Tensor, tables: Sequence[Tensor], positions: int, subtoken_bits: int, concat: bool, masked: Tensor | None
) -> Tensor:
    channels = tables[0].shape[1] * (len(tables) if concat else 1)
    return tables[0].new_empty((packed.shape[0], positions, channels))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    packed, tables, ctx.positions, ctx.subtoken_bits, ctx.concat, masked = inputs
    ctx.subtokens, ctx.entries = len(tables), tables[0].shape[0]
    ctx.save_for_backward(packed, masked)


def _embed_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    """Scatter the gradient into the tables as `F.embedding` does, so that it is as deterministic as that."""
    packed, masked = ctx.saved_tensors
    ids = ops.unpack_subtokens(packed, ctx.positions, ctx.subtokens, ctx.subtoken_bits, torch.int64)
    if masked is not None:
        ids = ids.masked_fill(masked.unsqueeze(-1), 2**ctx.subtoken_bits)
    parts = gradient.chunk(ctx.subtokens, dim=-1) if ctx.concat else [gradient] * ctx.subtokens
    tables = [
        torch.ops.aten.embedding_dense_backward(part, ids[..., s], ctx.entries, -1, False)
        for s, part in enumerate(parts)
    ]
    return None, tables, None, None, None, None


DEVICES = _load()
if "cpu" in DEVICES:
    torch.library.register_fake("elm_dist::pack_bits", _packed_shape)
    torch.library.register_fake("elm_dist::unpack_subtokens", _unpacked_shape)
    torch.library.register_fake("elm_dist::subtokens_to_bits", _bits_shape)
    torch.library.register_fake("elm_dist::embed_packed", _embedded_shape)
    torch.library.register_autograd("elm_dist::embed_packed", _embed_backward, setup_context=_save_for_backward)

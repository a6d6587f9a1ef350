"""The operations of `packing.py` in plain torch: what runs where the extension does not, with the same results.

Shapes are documented there. csrc/contract.h says the same things in C++.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from elm_dist.codes.subtokens import CodeShape

PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF


def pack_bits(values: Tensor, samples: Tensor | None, seed: int) -> Tensor:
    bits = values > 0 if samples is None else draw_bits(values, samples, seed)
    padded = F.pad(bits.to(torch.uint8), (0, -bits.shape[1] % 8))
    return (padded.unflatten(1, (-1, 8)) << _shifts(8, bits.device)).sum(dim=2, dtype=torch.uint8)


def unpack_subtokens(packed: Tensor, shape: CodeShape, dtype: torch.dtype) -> Tensor:
    size = (shape.positions, shape.subtokens)
    if shape.subtoken_bits == 8:
        return packed.reshape(-1, *size).to(dtype, copy=True)
    bits = subtokens_to_bits(packed, 8)[:, : shape.image_bits]
    return bits_to_subtokens(bits, shape.subtoken_bits).unflatten(1, size).to(dtype)


def bits_to_subtokens(bits: Tensor, subtoken_bits: int) -> Tensor:
    groups = bits.to(torch.int64).unflatten(-1, (-1, subtoken_bits))
    return (groups << _shifts(subtoken_bits, bits.device)).sum(dim=-1)


def subtokens_to_bits(ids: Tensor, subtoken_bits: int) -> Tensor:
    bits = (ids.unsqueeze(-1) >> _shifts(subtoken_bits, ids.device)) & 1
    return bits.flatten(-2).to(torch.uint8)


def embed_packed(
    packed: Tensor, tables: Sequence[Tensor], shape: CodeShape, concat: bool, masked: Tensor | None
) -> Tensor:
    ids = unpack_subtokens(packed[:, : shape.packed_bytes], shape, torch.int64)
    if masked is not None:
        ids = ids.masked_fill(masked.unsqueeze(-1), shape.vocabulary)
    rows = [F.embedding(ids[..., s], table) for s, table in enumerate(tables)]
    if concat:
        return torch.cat(rows, dim=-1)
    total = torch.zeros_like(rows[0], dtype=torch.promote_types(rows[0].dtype, torch.float32))
    for row in rows:
        total = total + row
    return total.to(rows[0].dtype)


def draw_bits(probabilities: Tensor, samples: Tensor, seed: int) -> Tensor:
    """Draw bit i of a sample where 24 bits of word i % 4 of Philox(seed, i // 4, sample) lie below its probability."""
    groups = torch.arange(-(-probabilities.shape[1] // 4), device=samples.device)
    words = philox(seed, groups, samples.unsqueeze(1)).flatten(1)[:, : probabilities.shape[1]]
    if probabilities.dtype == torch.uint8:  # in 255ths
        return (words >> 8) * 255 < probabilities.to(torch.int64) << 24
    return (words >> 8).float() * 2.0**-24 < probabilities.float()


def philox(seed: int, low: Tensor, high: Tensor) -> Tensor:
    """Return the four words (..., 4) in [0, 2**32), int64, of Philox4x32-10 for the counter of halves low and high."""
    low, high = torch.broadcast_tensors(low, high)
    a, b, c, d = low & WORD, (low >> 32) & WORD, high & WORD, (high >> 32) & WORD
    key = (seed & WORD, (seed >> 32) & WORD)
    for _ in range(10):
        p, q = a * PHILOX_MULTIPLIERS[0], c * PHILOX_MULTIPLIERS[1]  # they wrap round to the right 64 bits
        a, b, c, d = ((q >> 32) & WORD) ^ b ^ key[0], q & WORD, ((p >> 32) & WORD) ^ d ^ key[1], p & WORD
        key = ((key[0] + PHILOX_KEY_STEPS[0]) & WORD, (key[1] + PHILOX_KEY_STEPS[1]) & WORD)
    return torch.stack([a, b, c, d], dim=-1)


def _shifts(bits: int, device: torch.device) -> Tensor:
    """Return how far each bit of a field lies from its least significant end: bits - 1 down to 0."""
    return torch.arange(bits - 1, -1, -1, device=device, dtype=torch.uint8)

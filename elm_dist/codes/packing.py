"""Between packed bytes, bits and sub-tokens, on the device where the tensors are. Bit order: see `subtokens.py`."""

import torch
from torch import Tensor

from elm_dist.codes.subtokens import CodeShape


def pack_bits(bits: Tensor) -> Tensor:
    """Pack bits (batch, n) of 0 and 1 into bytes (batch, ceil(n / 8)), uint8, the first bit most significant."""
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -bits.shape[1] % 8))
    return (padded.unflatten(1, (-1, 8)) << _shifts(8, bits.device)).sum(dim=2, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: CodeShape) -> Tensor:
    """Unpack bytes (batch, packed_bytes) into bits (batch, positions, code_bits), uint8."""
    bits = (packed.unsqueeze(2) >> _shifts(8, packed.device)) & 1
    return bits.flatten(1)[:, : shape.image_bits].unflatten(1, (shape.positions, shape.code_bits))


def unpack_subtokens(packed: Tensor, shape: CodeShape) -> Tensor:
    """Unpack bytes (batch, packed_bytes) into sub-tokens (batch, positions, subtokens), int64."""
    return bits_to_subtokens(unpack_bits(packed, shape), shape.subtoken_bits)


def bits_to_subtokens(bits: Tensor, subtoken_bits: int) -> Tensor:
    """Read bits (..., code_bits) as sub-tokens (..., subtokens), int64."""
    groups = bits.to(torch.int64).unflatten(-1, (-1, subtoken_bits))
    return (groups << _shifts(subtoken_bits, bits.device)).sum(dim=-1)


def subtokens_to_bits(ids: Tensor, subtoken_bits: int) -> Tensor:
    """Write sub-tokens (..., subtokens) as bits (..., code_bits), uint8."""
    bits = (ids.unsqueeze(-1) >> _shifts(subtoken_bits, ids.device)) & 1
    return bits.flatten(-2).to(torch.uint8)


def _shifts(bits: int, device: torch.device) -> Tensor:
    """Return how far each bit of a field lies from its least significant end: bits - 1 down to 0."""
    return torch.arange(bits - 1, -1, -1, device=device, dtype=torch.uint8)

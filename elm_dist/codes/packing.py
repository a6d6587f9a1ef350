"""Between packed bytes, bits and sub-tokens, on the device where the tensors are. Bit order: see `subtokens.py`.

The work is done by the compiled extension where there is one for the device, else by `fallback.py`; the results are the
same, bit for bit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from elm_dist.codes import fallback
from elm_dist.codes.extension import DEVICES, SIMD_LEVELS, ops
from elm_dist.codes.subtokens import CodeShape

COMPILED_VALUES = (torch.bool, torch.uint8, torch.float32, torch.bfloat16)
COMPILED_TABLES = (torch.float32, torch.bfloat16)


def implementation() -> str:
    """Return what does the work, for logs: "torch", or such as "compiled (AVX512)" or "compiled (AVX2, CUDA)"."""
    if "cpu" not in DEVICES:
        return "torch"
    return f"compiled ({SIMD_LEVELS[ops.simd_level()]}{', CUDA' if 'cuda' in DEVICES else ''})"


def pack_bits(values: Tensor, samples: Tensor | None = None, seed: int = 0) -> Tensor:
    """Pack bits (batch, n) into bytes (batch, ceil(n / 8)), uint8, the first bit most significant.

    A bit is set where its value is positive: values may be 0 and 1, False and True, or signs. With `samples` (batch,),
    int64, they are probabilities, uint8 in 255ths, and bit i of a sample is drawn as a pure function of (seed, sample,
    i): the same wherever and however often it is drawn.
    """
    if values.dtype not in COMPILED_VALUES:
        values = values > 0 if samples is None else values.float()
    if samples is not None and values.dtype == torch.bool:
        values = values.float()
    if _is_compiled(values):
        return ops.pack_bits(values, samples, seed)
    return fallback.pack_bits(values, samples, seed)


def unpack_bits(packed: Tensor, shape: CodeShape) -> Tensor:
    """Unpack bytes (batch, packed_bytes) into bits (batch, positions, code_bits), uint8."""
    bits = subtokens_to_bits(packed, 8)[:, : shape.image_bits]
    return bits.unflatten(1, (shape.positions, shape.code_bits))


def unpack_subtokens(packed: Tensor, shape: CodeShape, dtype: torch.dtype = torch.int64) -> Tensor:
    """Unpack bytes (batch, packed_bytes) into sub-tokens (batch, positions, subtokens).

    `dtype` is uint8, int16, int32 or int64, of `subtoken_bits` or more. Cross-entropy wants int64. A sub-token that
    fills a signed type to the last bit comes out negative where its first bit is set, as from `.to(dtype)`.
    """
    assert packed.shape[1] == shape.packed_bytes, f"{shape} does not pack into {packed.shape[1]} bytes"
    assert dtype.itemsize * 8 >= shape.subtoken_bits, f"{shape.subtoken_bits} bits do not fit {dtype}"
    if shape.subtoken_bits != 8 and _is_compiled(packed):  # bytes are sub-tokens of 8 bits as they are
        return ops.unpack_subtokens(packed, shape.positions, shape.subtokens, shape.subtoken_bits, dtype)
    return fallback.unpack_subtokens(packed, shape, dtype)


def bits_to_subtokens(bits: Tensor, subtoken_bits: int) -> Tensor:
    """Read bits (..., code_bits) as sub-tokens (..., subtokens), int64."""
    return fallback.bits_to_subtokens(bits, subtoken_bits)


def subtokens_to_bits(ids: Tensor, subtoken_bits: int) -> Tensor:
    """Write sub-tokens (..., subtokens) as bits (..., code_bits), uint8."""
    assert ids.dtype.itemsize * 8 >= subtoken_bits, f"{ids.dtype} does not hold {subtoken_bits} bits"
    if _is_compiled(ids):
        return ops.subtokens_to_bits(ids, subtoken_bits)
    return fallback.subtokens_to_bits(ids, subtoken_bits)


def embed_packed(
    packed: Tensor,
    tables: Sequence[Tensor],
    shape: CodeShape,
    *,
    concat: bool = False,
    masked: Tensor | None = None,
) -> Tensor:
    """Embed the sub-tokens of packed bytes (batch, bytes) as (batch, positions, channels), without unpacking them.

    `tables` holds one (vocabulary or more, channels) for each sub-token. Their rows are added up, in fp32 and rounded
    once; with `concat` they lie side by side, (batch, positions, subtokens * channels). Bytes after those of `shape`
    are left out, so that a shorter shape embeds the first positions only. Where `masked` (batch, positions), bool, all
    sub-tokens are the mask token, `vocabulary`, which the tables must have. The tables get gradients, once.
    """
    assert len(tables) == shape.subtokens, f"{shape} needs {shape.subtokens} tables, not {len(tables)}"
    assert packed.shape[1] >= shape.packed_bytes, f"{shape} does not pack into {packed.shape[1]} bytes"
    if _is_compiled(packed) and tables[0].dtype in COMPILED_TABLES:
        return ops.embed_packed(packed, list(tables), shape.positions, shape.subtoken_bits, concat, masked)
    return fallback.embed_packed(packed, tables, shape, concat, masked)


def _is_compiled(tensor: Tensor) -> bool:
    return tensor.device.type in DEVICES

"""The layers of a model as sampling reads them: the same functions in fewer steps, with nothing left to train.

Folding copies the matrices and takes as long as a few steps, so it is done once for many images. A run in training,
whose weights change and may be divided between ranks, samples from its layers as they are (`elm.Decoder`). Knows
nothing of which position comes when: `decoder.py` does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.model.attention import KeyValueCache
from elm_dist.model.block import Block
from elm_dist.model.elm import ELM
from elm_dist.model.embedding import Embedding
from elm_dist.model.head import Head
from elm_dist.model.layers import RMSNorm
from elm_dist.model.rotary import rope_table, rotary_factors, rotate_by

# Measured of oneDNN 3.12 with AVX-512 (docs/sampling.md):
ROWS_TO_PACK_FOR = 16  # a packing for one row alone is slow for several; for sixteen it is fast for all few
FEWEST_ROWS = 4  # it reads large weights up to 1.6 times as fast for four rows as for one or two
SMALLEST_TO_PACK = 2**16  # weights; a call of a packed matrix takes some 10 microseconds more, which must pay


class Place(NamedTuple):
    """The positions that a step computes, how they are rotated, and what they see of the cache that comes along."""

    positions: Tensor  # (length,), int64
    cosines: Tensor  # (length, 1, 1, head_size): the factors of `rotary.rotate_by`
    sines: Tensor
    mask: Tensor | None  # (length, positions in the cache), bool; None where all is seen


class Places:
    """All positions of an image, from which a step picks its own; `table` is their `rope_table`."""

    def __init__(self, table: Tensor) -> None:
        self.order = torch.arange(len(table), device=table.device)
        self.cosines, self.sines = (factor[:, None, None] for factor in rotary_factors(table))
        self.causal = torch.ones((len(table), len(table)), dtype=torch.bool, device=table.device).tril()

    def between(self, begin: int, end: int) -> Place:
        """Return those from `begin` to `end`, for a cache up to `end`: one alone is the last, and sees all of it."""
        new = slice(begin, end)
        mask = None if end - begin == 1 else self.causal[new, :end]
        return Place(self.order[new], self.cosines[new], self.sines[new], mask)

    def at(self, positions: Tensor) -> Place:
        """Return those that a tensor names (length,), for a cache of all positions."""
        return Place(positions, self.cosines[positions], self.sines[positions], self.causal[positions])


class Matrix(nn.Module):
    """Linear layers of the same input as one, their outputs side by side; on a CPU packed for oneDNN's kernels.

    The kernels for packed weights read them about twice as fast for the few rows of a step as those that a linear
    layer calls. What oneDNN packs cannot be compiled, so `packed` is a choice.
    """

    def __init__(self, *linears: nn.Module, packed: bool) -> None:
        super().__init__()
        states = [linear.state_dict() for linear in linears]
        self.weight = _cat([state["weight"] for state in states])
        self.scale = _cat([state["scale"] for state in states]) if "scale" in states[0] else None  # of int8 weights
        self.is_packed = packed and _can_pack(self.weight)
        if self.is_packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), ROWS_TO_PACK_FOR)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply `x` (..., in) to (..., out of all)."""
        if self.is_packed:
            return _multiply_packed(x, self.weight)
        y = F.linear(x, self.weight.to(x.dtype))
        return y if self.scale is None else y * self.scale.to(x.dtype)


class FoldedNorm(nn.Module):
    """An RMS norm in half the operations: with n channels, sqrt(mean(x^2) + e) = hypot(|x|, sqrt(n e)) / sqrt(n)."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        weight = norm.weight.detach().float()
        self.gain = weight * len(weight) ** 0.5
        self.least = torch.tensor((len(weight) * norm.epsilon) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        exact = x.float()
        length = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        return (exact * (self.gain / torch.hypot(length, self.least))).to(x.dtype)


def fold_norm(norm: RMSNorm) -> nn.Module:
    """Return what is fastest: on a GPU a norm is one operation as it is."""
    return FoldedNorm(norm) if norm.weight.device.type == "cpu" else norm


class FoldedEmbedding:
    """An embedding whose tables went through its projection: a code is the sum of one row for each sub-token."""

    def __init__(self, embedding: Embedding) -> None:
        shape = embedding.code_shape
        tables = list(embedding.codes.state_dict().values())
        if isinstance(embedding.project, nn.Linear):
            parts = embedding.project.weight.detach().chunk(len(tables), dim=1)
            tables = [table @ part.T for table, part in zip(tables, parts, strict=True)]
        self.rows = _cat(tables)
        self.firsts = torch.arange(shape.subtokens, device=self.rows.device) * shape.vocabulary
        self.embed_classes = embedding.embed_classes

    def embed_codes(self, ids: Tensor) -> Tensor:
        """Embed sub-tokens (batch, length, subtokens) as (batch, length, hidden_size)."""
        return F.embedding(ids + self.firsts, self.rows).sum(dim=2)


class FoldedBlock(nn.Module):
    """A block that attends over a cache; queries and keys are rotated together, gate and up are one matrix."""

    def __init__(self, block: Block, packed: bool) -> None:
        super().__init__()
        attention, feed_forward = block.attention, block.feed_forward
        self.heads = attention.heads
        self.attention_norm, self.feed_forward_norm = (
            fold_norm(block.attention_norm),
            fold_norm(block.feed_forward_norm),
        )
        self.qkv = Matrix(attention.qkv, packed=packed)
        self.output = Matrix(attention.output, packed=packed)
        self.gate_and_up = Matrix(feed_forward.gate, feed_forward.up, packed=packed)
        self.down = Matrix(feed_forward.down, packed=packed)

    def forward(self, x: Tensor, place: Place, cache: KeyValueCache) -> Tensor:
        """Return the stream (batch, length, hidden_size) at `place`, and put its keys and values into the cache."""
        x = x + self._attend(self.attention_norm(x), place, cache)
        gate, up = self.gate_and_up(self.feed_forward_norm(x)).chunk(2, dim=2)
        return x + self.down(F.silu(gate) * up)

    def _attend(self, x: Tensor, place: Place, cache: KeyValueCache) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))
        q, k = rotate_by(qkv[:, :, :2], place.cosines, place.sines).transpose(1, 3).unbind(dim=2)
        cache.keys.index_copy_(2, place.positions, k)
        cache.values.index_copy_(2, place.positions, qkv[:, :, 2].transpose(1, 2))
        mixed = F.scaled_dot_product_attention(q, cache.keys, cache.values, attn_mask=place.mask)
        return self.output(mixed.transpose(1, 2).flatten(2))


class FoldedHead:
    """The final norm and all heads as one matrix."""

    def __init__(self, head: Head, packed: bool) -> None:
        self.norm, self.subtokens = fold_norm(head.norm), len(head.outputs)
        self.outputs = Matrix(*head.outputs, packed=packed)

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits (batch, length, subtokens, vocabulary) for the stream (batch, length, hidden_size)."""
        return self.outputs(self.norm(x)).unflatten(2, (self.subtokens, -1))


class FoldedELM:
    """A whole model on one device, ready to decode any number of batches. It needs the one it is made of no more.

    With `compiled`, torch.compile makes `static_block`, in the first step and once for each size of batch.
    """

    def __init__(self, model: ELM, compiled: bool = False) -> None:
        embedding, *_, head = model
        blocks = [layer for layer in model if isinstance(layer, Block)]
        assert isinstance(embedding, Embedding)
        assert isinstance(head, Head)
        self.embedding = FoldedEmbedding(embedding)
        self.blocks = [FoldedBlock(block, packed=not compiled) for block in blocks]
        self.head = FoldedHead(head, packed=not compiled)
        self.is_compiled = compiled
        self.static_block = torch.compile(FoldedBlock.forward, dynamic=False) if compiled else FoldedBlock.forward
        attention = blocks[0].attention
        self.heads, self.positions = attention.heads, attention.grid.cells
        self.head_size = attention.model.head_size
        self.places = Places(rope_table(attention.model, attention.grid, self.embedding.rows.device))

    def empty_caches(self, batch: int) -> list[KeyValueCache]:
        """Return a cache for each block."""
        size = (batch, self.heads, self.positions, self.head_size)
        return [KeyValueCache.empty(*size, like=self.embedding.rows) for _ in self.blocks]


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    """Return the tensors as one; one alone is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def _multiply_packed(x: Tensor, packed: Tensor) -> Tensor:
    rows = x.flatten(0, -2)
    filled = F.pad(rows, (0, 0, 0, FEWEST_ROWS - len(rows))) if len(rows) < FEWEST_ROWS else rows
    y: Tensor = torch.ops.mkldnn._linear_pointwise(filled, packed, None, "none", [], "")
    return y[: len(rows)].unflatten(0, x.shape[:-1])


def _can_pack(weight: Tensor) -> bool:
    is_small = weight.numel() < SMALLEST_TO_PACK
    if is_small or weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    is_bf16 = weight.dtype == torch.bfloat16
    return weight.dtype == torch.float32 or (is_bf16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())

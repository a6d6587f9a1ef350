"""Causal self-attention with two-dimensional rotary positions and an optional cache of keys and values."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a table that sampling asked for first must serve training, too
def rope_table(grid: int, head_size: int, device: torch.device, base: float = 10_000.0) -> Tensor:
    """Return cosines and sines (positions, head_size / 2, 2) for a sequence of the class and grid^2 - 1 codes, fp32.

    Of the channel pairs of a head the first half rotates by the row, the second by the column. The class has no place
    in the grid: its row is zero, which makes its query and key zero vectors, as in the published weights (a query's
    logit to the class is always 0). A function, not a buffer: engines cast buffers to bf16.
    """
    pairs = head_size // 4  # pairs per direction
    frequencies = base ** (-torch.arange(pairs, device=device, dtype=torch.float32) / pairs)
    angles = torch.outer(torch.arange(grid, device=device, dtype=torch.float32), frequencies)
    rows = angles.unsqueeze(1).expand(grid, grid, pairs)
    columns = angles.unsqueeze(0).expand(grid, grid, pairs)
    cells = torch.cat([rows, columns], dim=2).flatten(0, 1)
    table = torch.stack([cells.cos(), cells.sin()], dim=2)
    return torch.cat([torch.zeros_like(table[:1]), table[:-1]])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the channel pairs (2i, 2i + 1) of `x` (batch, length, heads, head_size) by `table` (length, pairs, 2)."""
    even, odd = x.float().unflatten(3, (-1, 2)).unbind(dim=4)
    cos, sin = table.unsqueeze(1).unbind(dim=3)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=4).flatten(3).to(x.dtype)


@dataclass
class KeyValueCache:
    """The keys and values (batch, heads, positions, head_size) of the positions that one layer has seen."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, batch: int, heads: int, positions: int, head_size: int, like: Tensor) -> "KeyValueCache":
        shape = (batch, heads, positions, head_size)
        return cls(like.new_zeros(shape), like.new_zeros(shape))


class Attention(nn.Module):
    """Multi-head causal attention, without biases."""

    def __init__(self, size: int, heads: int, grid: int) -> None:
        super().__init__()
        self.heads = heads
        self.grid = grid
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.output = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None, position: int = 0) -> Tensor:
        """Attend over `x` (batch, length, size); with a cache, `x` begins at `position` and sees all before it."""
        length = x.shape[1]
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(dim=2)
        table = rope_table(self.grid, q.shape[3], x.device)[position : position + length]
        q, k, v = (part.transpose(1, 2) for part in (rotate(q, table), rotate(k, table), v))
        if cache is None:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            assert length == 1, "the cache grows by one position at a time"
            cache.keys[:, :, position : position + 1] = k
            cache.values[:, :, position : position + 1] = v
            seen = slice(0, position + 1)
            mixed = F.scaled_dot_product_attention(q, cache.keys[:, :, seen], cache.values[:, :, seen])
        return self.output(mixed.transpose(1, 2).flatten(2))

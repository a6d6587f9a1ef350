"""Two-dimensional rotary positions: the table of angles of a grid, and the rotation of queries and keys by it."""

from functools import lru_cache

import torch
from torch import Tensor


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


def rotary_factors(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `rotate_by` multiplies with, cosines and signed sines (positions, head_size), for `rope_table`s."""
    cos, sin = table.unbind(dim=2)
    return cos.repeat_interleave(2, dim=1), torch.stack([-sin, sin], dim=2).flatten(1)


def rotate_by(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate as `rotate` does, x (batch, length, ..., head_size) with an axis or two between, in a third of its time.

    The factors are (length, head_size) with the same axes between, of size one. A pair (a, b) is turned by
    (a, b) * cos + (b, a) * (-sin, sin): what costs is the number of operations, not of products.
    """
    exact = x.float()
    swapped = exact.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(exact * cosines, swapped, sines).to(x.dtype)

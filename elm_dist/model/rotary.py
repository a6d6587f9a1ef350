"""Rotary positions: the table of angles of a sequence, and the rotation of queries and keys by it."""

from functools import lru_cache

import torch
from torch import Tensor

from elm_dist.codes.scan import scan_order
from elm_dist.config import Grid, ModelConfig

BASE = 10_000.0


def sequence_length(model: ModelConfig, grid: Grid) -> int:
    """Return the positions of the class and of the codes that are inputs: not of a last one that is only predicted."""
    return grid.cells if model.modelling == "autoregressive" else grid.cells + 1


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a table that sampling asked for first must serve training, too
def rope_table(model: ModelConfig, grid: Grid, device: torch.device) -> Tensor:
    """Return cosines and sines (sequence length, head_size / 2, 2), fp32, of the class and the codes in scan order.

    A function, not a buffer: engines cast buffers to bf16.
    """
    length = sequence_length(model, grid)
    table = {"rope_2d": _table_2d, "rope_1d": _table_1d}[model.position_encoding](model, grid, device)
    return table[:length]


def _table_2d(model: ModelConfig, grid: Grid, device: torch.device) -> Tensor:
    """Return the table of row and column: of a head's channel pairs the first half rotates by the one.

    The class has no place in the grid: its row is zero, which makes its query and key zero vectors, as in the published
    weights (a query's logit to the class is always 0).
    """
    order = torch.from_numpy(scan_order(model.scan, grid).copy()).to(device)
    frequencies = _frequencies(model.head_size // 4, device)
    places = (order // grid.columns, order % grid.columns)
    angles = [torch.outer(_squeeze(model, grid) * place, frequencies) for place in places]
    cells = _cos_and_sin(torch.cat(angles, dim=1))
    return torch.cat([torch.zeros_like(cells[:1]), cells])


def _table_1d(model: ModelConfig, grid: Grid, device: torch.device) -> Tensor:
    """Return the table of the position in the sequence, of which the class is the first, as Llama's are."""
    positions = torch.arange(1 + grid.cells, device=device) * _squeeze(model, grid) ** 2
    return _cos_and_sin(torch.outer(positions, _frequencies(model.head_size // 2, device)))


def _squeeze(model: ModelConfig, grid: Grid) -> float:
    """Return how much nearer to each other rows and columns are than their numbers say."""
    return model.rope_grid / max(grid) if model.rope_grid else 1.0


def _frequencies(pairs: int, device: torch.device) -> Tensor:
    return BASE ** (-torch.arange(pairs, device=device, dtype=torch.float32) / pairs)


def _cos_and_sin(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], dim=2)


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

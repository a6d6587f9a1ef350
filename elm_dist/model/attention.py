"""Multi-head self-attention, its cache of keys and values, and the functions that can compute its core.

Each function takes queries, keys and values (batch, heads, length, head_size) and returns the mixed values in the same
shape; with `causal` a position sees itself and what came before. There may be more keys than queries: the last query is
at the position of the last key. Which one a run uses: see `kernels.py`. This is the one place that imports flash_attn,
and only when it is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.model.rotary import rope_table, rotate


def reference_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """The definition in fp32, with the whole square of scores in memory: what the others are compared with."""
    scores = q.float() @ k.float().transpose(2, 3) / q.shape[3] ** 0.5
    if causal:
        scores = scores.masked_fill(_later(q, k), -torch.inf)
    return (scores.softmax(dim=3) @ v.float()).to(q.dtype)


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """PyTorch's own, which has fused kernels for every device."""
    if causal and q.shape[2] < k.shape[2]:  # is_causal takes the first query to be at the first key's position
        return F.scaled_dot_product_attention(q, k, v, attn_mask=~_later(q, k))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def _later(q: Tensor, k: Tensor) -> Tensor:
    """Return which keys come after which query, (queries, keys)."""
    shape = (q.shape[2], k.shape[2])
    return torch.ones(shape, dtype=torch.bool, device=q.device).triu(1 + k.shape[2] - q.shape[2])


def flash_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """FlashAttention-2 of the package flash-attn: on a GPU, in bf16 or fp16."""
    from flash_attn import flash_attn_func

    # Keywords alone: the fourth argument differs between flash-attn's major versions.
    return flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=causal).transpose(1, 2)


ATTENTION: dict[str, Callable[[Tensor, Tensor, Tensor, bool], Tensor]] = {
    "reference": reference_attention,
    "sdpa": sdpa_attention,
    "flash": flash_attention,
}


def missing_flash_attention() -> str | None:
    """Return why `flash_attention` cannot be called on this machine, None where it can."""
    try:
        from flash_attn import flash_attn_func  # noqa: F401  flash-attn-4 alone has the package and not the function
    except (ImportError, AttributeError, OSError) as error:  # OSError: built for another torch
        return f"flash-attn does not import ({error})"
    return None


@dataclass
class KeyValueCache:
    """The keys and values (batch, heads, positions, head_size) of the positions that one layer has seen."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, batch: int, heads: int, positions: int, head_size: int, like: Tensor) -> "KeyValueCache":
        shape = (batch, heads, positions, head_size)
        return cls(like.new_zeros(shape), like.new_zeros(shape))

    def rows(self, first: int, count: int) -> "KeyValueCache":
        """Return a view of `count` images of the batch."""
        return self.part(first, count, self.keys.shape[2])

    def part(self, first: int, count: int, end: int) -> "KeyValueCache":
        """Return a view of `count` images of the batch, up to position `end`."""
        rows = slice(first, first + count)
        return KeyValueCache(self.keys[rows, :, :end], self.values[rows, :, :end])


class Attention(nn.Module):
    """Multi-head causal attention, without biases, computed by `kernel`, one of `ATTENTION`."""

    def __init__(self, size: int, heads: int, grid: int, kernel: str = "sdpa") -> None:
        super().__init__()
        self.heads = heads
        self.grid = grid
        self.attend = ATTENTION[kernel]
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.output = nn.Linear(size, size, bias=False)

    def table(self, x: Tensor, position: int = 0) -> Tensor:
        """Return the rotary table of the positions of `x` (batch, length, size), which begins at `position`."""
        head_size = x.shape[2] // self.heads
        return rope_table(self.grid, head_size, x.device)[position : position + x.shape[1]]

    def forward(self, x: Tensor, table: Tensor, cache: KeyValueCache | None = None, position: int = 0) -> Tensor:
        """Attend over `x` (batch, length, size); with a cache, `x` begins at `position` and sees all before it."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(dim=2)
        q, k, v = (part.transpose(1, 2) for part in (rotate(q, table), rotate(k, table), v))
        if cache is None:
            mixed = self.attend(q, k, v, True)
        else:
            end = position + x.shape[1]
            cache.keys[:, :, position:end] = k
            cache.values[:, :, position:end] = v
            # One query is the last position: it sees everything, and needs no mask.
            mixed = self.attend(q, cache.keys[:, :, :end], cache.values[:, :, :end], x.shape[1] > 1)
        return self.output(mixed.transpose(1, 2).flatten(2))

"""Multi-head self-attention, its cache of keys and values, and the functions that can compute its core.

Each function takes queries, keys and values (batch, heads, length, head_size) and returns the mixed values in the same
shape; with `causal` a position sees itself and what came before. There may be more keys than queries: the last query is
at the position of the last key. Keys and values may have fewer heads, each for a group of the queries' heads. Which
function a run uses: see `kernels.py`. This is the one place that imports flash_attn, and only when it is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.config import Grid, ModelConfig
from elm_dist.model.rotary import rope_table, rotate
from elm_dist.model.similarity import build_similarity


def reference_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """The definition in fp32, with the whole square of scores in memory: what the others are compared with."""
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    scores = q.float() @ k.float().transpose(2, 3) / q.shape[3] ** 0.5
    if causal:
        scores = scores.masked_fill(_later(q, k), -torch.inf)
    return (scores.softmax(dim=3) @ v.float()).to(q.dtype)


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """PyTorch's own, which has fused kernels for every device."""
    is_grouped = q.shape[1] != k.shape[1]
    if causal and q.shape[2] < k.shape[2]:  # is_causal takes the first query to be at the first key's position
        return F.scaled_dot_product_attention(q, k, v, attn_mask=~_later(q, k), enable_gqa=is_grouped)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=is_grouped)


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
    """The keys and values (batch, heads, positions, head_size) of the positions that one layer has seen.

    With them the class of each image (batch, 1, channels), if the layer is adaptive; else without channels.
    """

    keys: Tensor
    values: Tensor
    labels: Tensor

    @classmethod
    def empty(
        cls, batch: int, heads: int, positions: int, head_size: int, like: Tensor, label_size: int = 0
    ) -> "KeyValueCache":
        shape = (batch, heads, positions, head_size)
        return cls(like.new_zeros(shape), like.new_zeros(shape), like.new_zeros(batch, 1, label_size))

    def rows(self, first: int, count: int) -> "KeyValueCache":
        """Return a view of `count` images of the batch."""
        return self.part(first, count, self.keys.shape[2])

    def part(self, first: int, count: int, end: int) -> "KeyValueCache":
        """Return a view of `count` images of the batch, up to position `end`."""
        rows = slice(first, first + count)
        return KeyValueCache(self.keys[rows, :, :end], self.values[rows, :, :end], self.labels[rows])


class Attention(nn.Module):
    """Multi-head self-attention without biases, causal where codes are predicted from those before them.

    `kernel` is one of `ATTENTION`, `norm` one of `layers.RMS_NORM`.
    """

    def __init__(self, model: ModelConfig, grid: Grid, kernel: str = "sdpa", norm: str = "torch") -> None:
        super().__init__()
        self.model, self.grid = model, grid
        self.heads = model.num_heads
        self.key_value_heads = model.key_value_heads or model.num_heads
        self.causal = model.modelling == "autoregressive"
        self.attend = ATTENTION[kernel]
        self.qkv = nn.Linear(model.hidden_size, model.hidden_size + 2 * model.key_value_size, bias=False)
        self.similarity = build_similarity(model, norm)
        self.output = nn.Linear(model.hidden_size, model.hidden_size, bias=False)

    def table(self, x: Tensor, position: int = 0) -> Tensor | None:
        """Return the rotary table of the positions of `x` (batch, length, size), which begins at `position`.

        None where positions are learned, and so in `x` already.
        """
        if self.model.position_encoding == "learned":
            return None
        return rope_table(self.model, self.grid, x.device)[position : position + x.shape[1]]

    def project(self, x: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, keys and values (batch, heads, length, head_size) of `x`, ready to be compared."""
        heads = (self.heads, self.key_value_heads, self.key_value_heads)
        parts = self.qkv(x).unflatten(2, (sum(heads), -1)).split(heads, dim=2)
        q, k = self.similarity(*parts[:2])
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        q, k, v = (part.transpose(1, 2) for part in (q, k, parts[2]))
        return q, k, v

    def forward(self, x: Tensor, table: Tensor | None, cache: KeyValueCache | None = None, position: int = 0) -> Tensor:
        """Attend over `x` (batch, length, size); with a cache, `x` begins at `position` and sees all before it."""
        q, k, v = self.project(x, table)
        if cache is None:
            mixed = self.attend(q, k, v, self.causal)
        else:
            end = position + x.shape[1]
            cache.keys[:, :, position:end] = k
            cache.values[:, :, position:end] = v
            # One query is the last position: it sees everything, and needs no mask.
            mixed = self.attend(q, cache.keys[:, :, :end], cache.values[:, :, :end], x.shape[1] > 1)
        return self.output(mixed.transpose(1, 2).flatten(2))

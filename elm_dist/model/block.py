"""One transformer block: attention and SwiGLU, each behind its own norm and added to the stream."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from elm_dist.config import ModelConfig
from elm_dist.model.attention import Attention, KeyValueCache
from elm_dist.model.kernels import Kernels
from elm_dist.model.layers import Dropout, RMSNorm, SwiGLU, current_micro_batch_seed


class Block(nn.Module):
    """Block `index` (from 0) of the model; with `recompute` the backward pass makes its activations again."""

    def __init__(self, model: ModelConfig, grid: int, index: int, recompute: bool, kernels: Kernels) -> None:
        super().__init__()
        self.recompute = recompute
        self.attention_norm = RMSNorm(model.hidden_size, kernels.norm)
        self.attention = Attention(model.hidden_size, model.num_heads, grid, kernels.attention)
        self.attention_dropout = Dropout(model.dropout, f"block_{index}/attention")
        self.feed_forward_norm = RMSNorm(model.hidden_size, kernels.norm)
        self.feed_forward = SwiGLU(model.hidden_size, model.feed_forward_size)
        self.feed_forward_dropout = Dropout(model.dropout, f"block_{index}/feed_forward")
        self._attend, self._feed = self._attention_branch, self._feed_forward_branch
        if kernels.compile_blocks:
            # The branches alone: dropout draws from a generator of its own, which cannot be compiled. Functions and
            # not modules are wrapped, so the parameters keep their names.
            self._attend, self._feed = torch.compile(self._attend), torch.compile(self._feed)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream (batch, positions, hidden_size) after this block."""
        seed = current_micro_batch_seed() if self.training else None
        if self.recompute and torch.is_grad_enabled():
            # The seed travels as an argument: by the time of the backward pass another micro-batch is the current one.
            return checkpoint(self._transform, x, seed, use_reentrant=False, preserve_rng_state=False)
        return self._transform(x, seed)

    def step(self, x: Tensor, position: int, cache: KeyValueCache) -> Tensor:
        """Return the stream (batch, length, hidden_size) from `position` on, given the cache of all before it."""
        x = x + self._attention_branch(x, self.attention.table(x, position), cache, position)
        return x + self._feed_forward_branch(x)

    def _transform(self, x: Tensor, seed: int | None) -> Tensor:
        x = x + self.attention_dropout(self._attend(x, self.attention.table(x)), seed)
        return x + self.feed_forward_dropout(self._feed(x), seed)

    def _attention_branch(
        self, x: Tensor, table: Tensor, cache: KeyValueCache | None = None, position: int = 0
    ) -> Tensor:
        return self.attention(self.attention_norm(x), table, cache, position)

    def _feed_forward_branch(self, x: Tensor) -> Tensor:
        return self.feed_forward(self.feed_forward_norm(x))

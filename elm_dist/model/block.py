"""One transformer block: attention and SwiGLU, each behind its own norm and added to the stream."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from elm_dist.config import Grid, ModelConfig
from elm_dist.model.adaln import AdaLN, Modulation, join
from elm_dist.model.attention import Attention, KeyValueCache
from elm_dist.model.kernels import Kernels
from elm_dist.model.layers import Dropout, DropPath, RMSNorm, SwiGLU, current_micro_batch_seed


class Block(nn.Module):
    """Block `index` (from 0) of the model; with `recompute` the backward pass makes its activations again."""

    def __init__(self, model: ModelConfig, grid: Grid, index: int, recompute: bool, kernels: Kernels) -> None:
        super().__init__()
        self.recompute = recompute
        self.adaln = AdaLN(model.hidden_size) if model.conditioning == "adaln" else None
        self.attention_norm = RMSNorm(model.hidden_size, kernels.norm)
        self.attention = Attention(model, grid, kernels.attention, kernels.norm)
        self.attention_dropout = Dropout(model.dropout, f"block_{index}/attention")
        self.feed_forward_norm = RMSNorm(model.hidden_size, kernels.norm)
        self.feed_forward = SwiGLU(model.hidden_size, model.feed_forward_size)
        self.feed_forward_dropout = Dropout(model.dropout, f"block_{index}/feed_forward")
        dropped = model.drop_path * index / max(1, model.num_layers - 1)
        self.attention_path = DropPath(dropped, f"block_{index}/attention_path")
        self.feed_forward_path = DropPath(dropped, f"block_{index}/feed_forward_path")
        self._attend, self._feed = self._attention_branch, self._feed_forward_branch
        if kernels.compile_blocks:
            # The branches alone: dropout draws from a generator of its own, which cannot be compiled. Functions and
            # not modules are wrapped, so the parameters keep their names.
            self._attend, self._feed = torch.compile(self._attend), torch.compile(self._feed)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream (batch, length, hidden_size) after this block."""
        seed = current_micro_batch_seed() if self.training else None
        if self.recompute and torch.is_grad_enabled():
            # The seed travels as an argument: by the time of the backward pass another micro-batch is the current one.
            return checkpoint(self._transform, x, seed, use_reentrant=False, preserve_rng_state=False)
        return self._transform(x, seed)

    def step(self, x: Tensor, position: int, cache: KeyValueCache) -> Tensor:
        """Return the stream (batch, length, hidden_size) from `position` on, given the cache of all before it.

        With an adaptive norm the stream at position 0 has the class before it, which the cache then keeps.
        """
        if self.adaln is None:
            return self._step(x, position, cache, (None, None))
        if position > 0:
            return self._step(x, position, cache, self.adaln(cache.labels))
        label, sequence = self.adaln.split(x)
        cache.labels.copy_(label)
        return join(label, self._step(sequence, position, cache, self.adaln(label)))

    def _step(
        self, x: Tensor, position: int, cache: KeyValueCache, parts: tuple[Modulation | None, Modulation | None]
    ) -> Tensor:
        x = x + self._attention_branch(x, self.attention.table(x, position), parts[0], cache, position)
        return x + self._feed_forward_branch(x, parts[1])

    def _transform(self, x: Tensor, seed: int | None) -> Tensor:
        if self.adaln is None:
            return self._add_branches(x, seed, (None, None))
        label, sequence = self.adaln.split(x)
        return join(label, self._add_branches(sequence, seed, self.adaln(label)))

    def _add_branches(self, x: Tensor, seed: int | None, parts: tuple[Modulation | None, Modulation | None]) -> Tensor:
        attended = self.attention_dropout(self._attend(x, self.attention.table(x), parts[0]), seed)
        x = x + self.attention_path(attended, seed)
        return x + self.feed_forward_path(self.feed_forward_dropout(self._feed(x, parts[1]), seed), seed)

    def _attention_branch(
        self,
        x: Tensor,
        table: Tensor | None,
        modulation: Modulation | None,
        cache: KeyValueCache | None = None,
        position: int = 0,
    ) -> Tensor:
        normed = self.attention_norm(x)
        if modulation is None:
            return self.attention(normed, table, cache, position)
        return modulation.after(self.attention(modulation.before(normed), table, cache, position))

    def _feed_forward_branch(self, x: Tensor, modulation: Modulation | None) -> Tensor:
        normed = self.feed_forward_norm(x)
        if modulation is None:
            return self.feed_forward(normed)
        return modulation.after(self.feed_forward(modulation.before(normed)))

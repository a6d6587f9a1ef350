"""The attention weights of a model's blocks, which kernels never hand out: computed again from what each block attends.

Knows nothing of what is made of the weights.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from elm_dist.model.attention import Attention
from elm_dist.model.block import Block


def attention_by_layer(model: nn.Sequential, batch: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
    """Yield the weights of each block in order, as `attention_weights` does, for packed codes and labels.

    The model runs as far as is asked for. One block's weights exist at a time, if the caller keeps none.
    """
    x: object = batch
    for layer in model:
        if not isinstance(layer, Block):
            x = layer(x)
            continue
        inputs: list[Any] = []  # that it attends with: its normalized stream, and the table of positions or None
        hook = layer.attention.register_forward_pre_hook(lambda _, given, inputs=inputs: inputs.extend(given[:2]))
        x = layer(x)
        hook.remove()
        yield attention_weights(layer.attention, *inputs)


def attention_weights(attention: Attention, x: Tensor, table: Tensor | None) -> Tensor:
    """Return how much of each value the module mixes, (batch, heads, queries, keys) in fp32: sums over keys are 1."""
    q, k, _ = attention.project(x, table)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # query heads may share their keys
    return visible_softmax(q.float() @ k.float().transpose(2, 3) / q.shape[3] ** 0.5, attention.causal)


def visible_softmax(scores: Tensor, causal: bool) -> Tensor:
    """Return the softmax of scores (..., length, length) over the keys that a query may see."""
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(dim=-1)

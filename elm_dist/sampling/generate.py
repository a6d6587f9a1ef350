"""Draws codes from a model, one position after the other, with a cache and classifier-free guidance.

Knows nothing of processes: it asks a `decoder` for logits, be it a whole model or a pipeline of stages.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import SamplingConfig
from elm_dist.randomness import uniforms
from elm_dist.sampling.guidance import guidance_scales

# (labels at position 0 or sub-tokens (batch, 1, subtokens), position) -> logits (batch, 1, subtokens, vocabulary)
DecoderStep = Callable[[Tensor, int], Tensor]


@torch.inference_mode()
def generate(
    build_decoder: Callable[[int], DecoderStep],
    shape: CodeShape,
    labels: Tensor,
    seeds: Sequence[int],
    null_class: int,
    sampling: SamplingConfig,
    on_position: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return sub-tokens (batch, positions, subtokens), int64, of one image per label (batch,) and seed.

    An image depends on its label and seed alone, not on the others of its batch. With guidance the batch is doubled:
    the second half carries the null class. `build_decoder` gets that size; `on_position` is called after each step.
    """
    scales = guidance_scales(sampling.cfg_schedule, sampling.cfg_scale, shape.positions)
    guided = any(scale != 1 for scale in scales)
    draws = _draws(seeds, shape, labels.device)
    x = torch.cat([labels, torch.full_like(labels, null_class)]) if guided else labels
    step = build_decoder(len(x))
    codes = torch.empty((len(labels), shape.positions, shape.subtokens), dtype=torch.int64, device=labels.device)
    for position, scale in enumerate(scales):
        logits = step(x, position)[:, 0].float()
        if guided:
            conditional, null = logits.chunk(2)
            logits = null + (conditional - null) * scale
        ids = pick(logits, draws[:, position], sampling)
        codes[:, position] = ids
        x = (torch.cat([ids, ids]) if guided else ids).unsqueeze(1)
        on_position()
    return codes


def pick(logits: Tensor, draws: Tensor, sampling: SamplingConfig) -> Tensor:
    """Return an entry for each row of `logits` (..., vocabulary): its distribution inverted at `draws` (...)."""
    logits = logits / sampling.temperature
    if sampling.top_k:
        smallest = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    # Summed in fp64: in fp32 the rounding of a sum over 65,536 entries would favour some of them.
    cumulative = logits.softmax(dim=-1).double().cumsum(dim=-1)
    targets = draws.unsqueeze(-1) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def _draws(seeds: Sequence[int], shape: CodeShape, device: torch.device) -> Tensor:
    """Return the random numbers (batch, positions, subtokens), fp64, that decide each image."""
    indices = np.arange(shape.positions * shape.subtokens)
    rows = np.stack([uniforms(seed, "sample", indices) for seed in seeds])
    return torch.from_numpy(rows).view(-1, shape.positions, shape.subtokens).to(device)

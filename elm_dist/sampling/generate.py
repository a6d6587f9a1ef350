"""Draws codes from a model, one position after the other, with a cache and classifier-free guidance.

Knows nothing of processes: it asks a `decoder` for logits, be it a whole model or a pipeline of stages.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import SamplingConfig
from elm_dist.model.elm import DecoderStep
from elm_dist.randomness import uniforms
from elm_dist.sampling.guidance import guidance_scales


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

    An image depends on its label and seed alone, not on the others of its batch. `build_decoder` gets the size of the
    batch, doubled where there is guidance: the second half carries the null class. It is computed only while guidance
    is on. `on_position` is called after each step. Nothing in the loop waits for the device.
    """
    interval = sampling.cfg_interval
    scales = guidance_scales(sampling.cfg_schedule, sampling.cfg_scale, shape.positions, interval)
    first_guided = next((position for position, scale in enumerate(scales) if scale != 1), None)
    draws = _draws(seeds, shape, labels.device)
    codes = torch.empty((len(labels), shape.positions, shape.subtokens), dtype=torch.int64, device=labels.device)
    null = torch.full_like(labels, null_class)
    step = build_decoder(len(labels) * (1 if first_guided is None else 2))
    for position, scale in enumerate(scales):
        x = codes[:, position - 1 : position] if position else labels
        if position == first_guided:
            _catch_up(step, null, codes[:, : max(position - 1, 0)], position)
        if scale == 1:
            logits = step(x, position)[:, 0].float()
        else:
            doubled = torch.cat([x, x if position else null])
            guided, free = step(doubled, position)[:, 0].float().chunk(2)
            logits = free + (guided - free) * scale
        codes[:, position] = pick(logits, draws[:, position], sampling)
        on_position()
    return codes


def _catch_up(step: DecoderStep, null: Tensor, codes: Tensor, position: int) -> None:
    """Fill the cache of the half that carries the null class with what came before `position`, in two passes."""
    if position > 0:
        step(null, 0, row=len(null))
    if position > 1:
        step(codes, 1, row=len(null))


def pick(logits: Tensor, draws: Tensor, sampling: SamplingConfig) -> Tensor:
    """Return an entry for each row of `logits` (..., vocabulary), drawn with random numbers `draws` (..., bits).

    The temperature comes first, then the `top_k` likeliest entries, then the nucleus of what these make up.
    """
    logits = logits / sampling.temperature
    if sampling.top_k:
        smallest = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    probabilities = logits.softmax(dim=-1).double()
    if sampling.top_p < 1:
        probabilities = _nucleus(probabilities, sampling.top_p)
    return _draw_bits(probabilities, draws)


def _draw_bits(probabilities: Tensor, draws: Tensor) -> Tensor:
    """Draw the number of an entry bit by bit, the first bit first, each from what the bits before it leave.

    Inverting the cumulative sum at one number would be shorter, but its edges, one for each of up to 65,536 entries,
    all move with the rounding of any probability, and images with them. Here an entry hangs on one edge for each bit.
    """
    ids = torch.zeros(probabilities.shape[:-1], dtype=torch.int64, device=probabilities.device)
    for draw in draws.unbind(dim=-1):
        zeros, ones = probabilities.chunk(2, dim=-1)  # entries whose next bit is 0, and 1
        weight = ones.sum(dim=-1)
        bit = draw < weight / (weight + zeros.sum(dim=-1))
        probabilities = torch.where(bit.unsqueeze(-1), ones, zeros)
        ids = 2 * ids + bit
    return ids


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Return `probabilities` (..., vocabulary) with zeros beyond the fewest likeliest that together reach `top_p`."""
    descending = probabilities.sort(dim=-1, descending=True).values
    likelier = descending.cumsum(dim=-1) - descending  # what all likelier entries sum to
    smallest = descending.masked_fill(likelier >= top_p, torch.inf).amin(dim=-1, keepdim=True)
    return probabilities.masked_fill(probabilities < smallest, 0)


def _draws(seeds: Sequence[int], shape: CodeShape, device: torch.device) -> Tensor:
    """Return the random numbers (batch, positions, subtokens, subtoken_bits), fp64, that decide each image."""
    size = (shape.positions, shape.subtokens, shape.subtoken_bits)
    indices = np.arange(math.prod(size))
    rows = np.stack([uniforms(seed, "sample", indices) for seed in seeds])
    return torch.from_numpy(rows).view(-1, *size).to(device)

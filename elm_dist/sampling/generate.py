"""Draws codes from a model, one position after the other, with a cache and classifier-free guidance.

Knows nothing of processes: it asks a `decoder` for logits, be it a whole model or a pipeline of stages.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import SamplingConfig
from elm_dist.model.elm import DecoderStep
from elm_dist.randomness import uniforms
from elm_dist.sampling.guidance import guidance_scales


class Known(NamedTuple):
    """Codes that are given, of every image of a batch at the same positions; they are seen by what comes after them."""

    codes: Tensor  # (batch, positions, subtokens), int64; what stands at other positions does not matter
    positions: Sequence[bool]  # which are given


@torch.inference_mode()
def generate(
    build_decoder: Callable[[int], DecoderStep],
    shape: CodeShape,
    labels: Tensor,
    seeds: Sequence[int],
    null_class: int,
    sampling: SamplingConfig,
    *,
    known: Known | None = None,
    on_progress: Callable[[Tensor, int], None] = lambda codes, done: None,
) -> Tensor:
    """Return sub-tokens (batch, positions, subtokens), int64, of one image per label (batch,) and seed.

    An image depends on its label, its seed and what is `known` alone, not on the others of its batch. `build_decoder`
    gets the size of the batch, doubled where there is guidance: the second half carries the null class. It is computed
    only while guidance is on. `on_progress` gets the codes and the number of positions that are done, whenever that
    grows. Nothing in the loop waits for the device.
    """
    scales = guidance_scales(sampling.cfg_schedule, sampling.cfg_scale, shape.positions, sampling.cfg_interval)
    is_known = [False] * shape.positions if known is None else list(known.positions)
    draws = _draws(seeds, shape, labels.device)
    codes = torch.empty((len(labels), shape.positions, shape.subtokens), dtype=torch.int64, device=labels.device)
    if known is not None:
        codes.copy_(known.codes)
    to_draw = [position for position in range(shape.positions) if not is_known[position]]
    is_guided = any(scales[position] != 1 for position in to_draw)
    halves = _Halves(build_decoder, labels, null_class, codes, is_guided)
    for position, following in pairwise([*to_draw, shape.positions]):
        codes[:, position] = pick(halves.logits(position, scales[position]), draws[:, position], sampling)
        on_progress(codes, following)
    return codes


class _Halves:
    """The two halves of a guided batch in a decoder's cache, each fed as far as somebody asked for its logits.

    The first half carries the labels, the second the null class. Positions that nobody asked about, because their codes
    are known or guidance was off, are fed together, in one pass.
    """

    def __init__(
        self, build_decoder: Callable[[int], DecoderStep], labels: Tensor, null_class: int, codes: Tensor, guided: bool
    ) -> None:
        self.codes = codes
        self.starts = (labels, torch.full_like(labels, null_class))
        self.step = build_decoder(len(labels) * (2 if guided else 1))
        self.fed = [0, 0]  # positions of each half that are in the cache

    def logits(self, position: int, scale: float) -> Tensor:
        """Return the logits (batch, subtokens, vocabulary), fp32, of `position`, guided by `scale`; 1 is not at all."""
        if scale == 1:
            return self._feed([0], position).float()
        if self.fed[0] != self.fed[1]:  # the half that lags behind catches up
            self._feed([self.fed.index(min(self.fed))], max(self.fed) - 1)
        guided, free = self._feed([0, 1], position).float().chunk(2)
        return free + (guided - free) * scale

    def _feed(self, halves: list[int], position: int) -> Tensor:
        """Feed what comes before `position` to halves that are equally far; return their logits there."""
        batch, fed = len(self.codes), self.fed[halves[0]]
        row = halves[0] * batch
        if fed == 0:
            logits = self.step(torch.cat([self.starts[half] for half in halves]), 0, row)
            fed = 1
        if fed <= position:
            new = self.codes[:, fed - 1 : position]
            logits = self.step(torch.cat([new] * len(halves)), fed, row)
        for half in halves:
            self.fed[half] = position + 1
        return logits[:, 0]


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

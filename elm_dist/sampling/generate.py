"""Draws codes from a model, one position after the other or a few at once, with a cache and classifier-free guidance.

Knows nothing of processes: it asks a `decoder` for logits, be it a whole model or a pipeline of stages.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import SamplingConfig
from elm_dist.model.elm import DecoderStep, Drawn
from elm_dist.randomness import uniforms
from elm_dist.sampling.guidance import guidance_scales


class Known(NamedTuple):
    """Codes that are given, of every image of a batch at the same positions; they are seen by what comes after them."""

    codes: Tensor  # (batch, positions, subtokens), int64; what stands at other positions does not matter
    positions: NDArray[np.bool_]  # which are given


# What watches codes (batch, positions, subtokens) being drawn: it gets them, which must be copied to be kept, and which
# positions are done, whenever there are more.
OnCodes = Callable[[Tensor, NDArray[np.bool_]], None]


def ignore(codes: Tensor, is_done: NDArray[np.bool_]) -> None:
    """Watch nothing."""


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
    on_progress: OnCodes = ignore,
) -> Tensor:
    """Return sub-tokens (batch, positions, subtokens), int64, of one image per label (batch,) and seed.

    Labels may be mixtures of classes instead: weights (batch, null_class + 1). An image depends on its label, its seed
    and what is `known` alone, not on the others of its batch. `build_decoder` gets the size of the batch, doubled where
    there is guidance: the second half carries the null class. It is computed only while guidance is on. What stands
    at positions that are not done is not drawn yet. Nothing in the loop waits for the device.

    With a `lookahead` each pass computes so many positions: the next one, and those that are right if guesses of the
    codes before them are. A guess is right if it is what the pass draws there. This is speculative Jacobi decoding
    (Teng et al. 2024, arXiv 2410.01699) with common random numbers in place of its random acceptance: the draws of a
    position are settled, and so the codes are those of one position a pass, but for what products of another length
    round. A batch goes on from the first guess that is wrong in any image, which each pass waits to know; images that
    got further keep what they drew as guesses.
    """
    scales = guidance_scales(sampling.cfg_schedule, sampling.cfg_scale, shape.positions, sampling.cfg_interval)
    draws = _draws(seeds, shape, labels.device)
    codes = _Codes(len(labels), shape, known, labels.device)
    halves = _Halves(build_decoder, labels, null_class, codes, scales)
    position = codes.next_to_draw(0)
    end = position + 1  # there is nothing yet to guess from
    while position < shape.positions:
        picks = _pick_codes(halves, position, draws[:, position:end], sampling)
        right = codes.settle(position, picks)
        halves.forget(right)
        position, seen = codes.next_to_draw(right), end
        end = min(position + sampling.lookahead, shape.positions)
        codes.guess(max(position, seen), end - 1)  # nothing in the pass comes after its last position
        on_progress(codes.tensor, np.arange(shape.positions) < position)
    return codes.tensor


class _Codes:
    """The codes of a batch: those that are known, those that are drawn, and guesses at some that come next."""

    def __init__(self, batch: int, shape: CodeShape, known: Known | None, device: torch.device) -> None:
        self.tensor = torch.empty((batch, shape.positions, shape.subtokens), dtype=torch.int64, device=device)
        self.is_known = [False] * shape.positions if known is None else known.positions.tolist()
        self._known = torch.tensor(self.is_known, device=device).unsqueeze(1)
        if known is not None:
            self.tensor.copy_(known.codes)

    def next_to_draw(self, position: int) -> int:
        """Return the first position from `position` on that is not known, or the end."""
        return [*self.is_known, False].index(False, position)

    def settle(self, first: int, picks: Tensor) -> int:
        """Take `picks` (batch, length, subtokens) from `first` on; return up to where they are right in every image.

        The first is, and so is each that had but right guesses before it. From there on they are the next guesses.
        """
        guesses, picks = self.tensor[:, first : first + picks.shape[1]], self._unless_known(first, picks)
        right = first + (_count_right(picks, guesses) if picks.shape[1] > 1 else 1)
        guesses.copy_(picks)
        return right

    def guess(self, first: int, end: int) -> None:
        """Make the first guesses for the positions from `first` to `end`, if there are any.

        The newest code is as good a guess as the code above, or as what the newest distribution draws there: passes
        correct most of them before it is their turn. From a code that is always the same they take up to twice as many.
        """
        if first < end:
            newest = self.tensor[:, first - 1 : first].expand(-1, end - first, -1)
            self.tensor[:, first:end] = self._unless_known(first, newest)

    def _unless_known(self, first: int, new: Tensor) -> Tensor:
        window = slice(first, first + new.shape[1])
        return torch.where(self._known[window], self.tensor[:, window], new) if any(self.is_known[window]) else new


def _count_right(picks: Tensor, guesses: Tensor) -> int:
    """Return how many of `picks` (batch, length, subtokens) have but right guesses before them, in every image."""
    is_right = (picks == guesses)[:, :-1].all(dim=2).all(dim=0)
    return 1 + int(is_right.cumprod(dim=0).sum())


class _Halves:
    """The two halves of a guided batch in a decoder's cache, each fed as far as somebody asked for its logits.

    The first half carries the labels, the second the null class. Positions that nobody asked about, because their codes
    are known or guidance was off, are fed together, in one pass.
    """

    def __init__(
        self,
        build_decoder: Callable[[int], DecoderStep],
        labels: Tensor,
        null_class: int,
        codes: _Codes,
        scales: Sequence[float],
    ) -> None:
        self.codes = codes.tensor
        self.starts = (labels, null_labels(labels, null_class))
        self.is_guided = [scale != 1 and not known for scale, known in zip(scales, codes.is_known, strict=True)]
        self.scales = torch.tensor(scales, device=labels.device).view(-1, 1, 1)
        self.step = build_decoder(len(labels) * (2 if any(self.is_guided) else 1))
        self.fed = [0, 0]  # positions of each half that are in the cache

    def logits(self, position: int, end: int) -> Tensor:
        """Return the logits (batch, end - position, n, vocabulary), fp32, from `position` on, guided.

        They are those of the sub-tokens that can be drawn together, from the first on.
        """
        if not any(self.is_guided[position:end]):
            return self._feed([0], end, end - position).float()
        if self.fed[0] != self.fed[1]:  # the half that lags behind catches up
            self._feed([self.fed.index(min(self.fed))], max(self.fed))
        return self._guided(self._feed([0, 1], end, end - position), position, end)

    def next_logits(self, position: int, picks: Tensor) -> Tensor:
        """Return the logits of what comes after `picks` (batch, length, number), for which there were `logits`."""
        end = position + picks.shape[1]
        halves = 2 if any(self.is_guided[position:end]) else 1
        logits = self.step(Drawn(picks.repeat(halves, 1, 1)), position, 0, picks.shape[1])
        return self._guided(logits, position, end) if halves == 2 else logits.float()

    def _guided(self, logits: Tensor, position: int, end: int) -> Tensor:
        guided, free = logits.float().chunk(2)
        return free + (guided - free) * self.scales[position:end]

    def forget(self, position: int) -> None:
        """Take what was fed from `position` on for wrong."""
        self.fed = [min(fed, position) for fed in self.fed]

    def _feed(self, halves: list[int], end: int, outputs: int = 1) -> Tensor:
        """Feed what comes before `end` to halves that are equally far; return the logits of the last `outputs`."""
        batch, fed = len(self.codes), self.fed[halves[0]]
        row = halves[0] * batch
        if fed == 0:
            logits = self.step(torch.cat([self.starts[half] for half in halves]), 0, row)
            fed = 1
        if fed < end:
            new = self.codes[:, fed - 1 : end - 1]
            logits = self.step(torch.cat([new] * len(halves)), fed, row, outputs)
        for half in halves:
            self.fed[half] = end
        return logits


def _pick_codes(halves: _Halves, position: int, draws: Tensor, sampling: SamplingConfig) -> Tensor:
    """Return codes from `position` on, drawn with `draws` (batch, length, subtokens, bits): as many at once as can be.

    The sub-tokens of a code are drawn together, or one after the other.
    """
    logits = halves.logits(position, position + draws.shape[1])
    picks = pick(logits, draws[:, :, : logits.shape[2]], sampling)
    while (count := picks.shape[2]) < draws.shape[2]:
        more = pick(halves.next_logits(position, picks), draws[:, :, count : count + 1], sampling)
        picks = torch.cat([picks, more], dim=2)
    return picks


def null_labels(labels: Tensor, null_class: int) -> Tensor:
    """Return the null class in the form of `labels`: numbers, or weights of classes."""
    if not labels.is_floating_point():
        return torch.full_like(labels, null_class)
    return torch.eye(labels.shape[1], dtype=labels.dtype, device=labels.device)[null_class].expand_as(labels)


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

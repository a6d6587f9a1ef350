"""Draws codes from a masked model: all are hidden, and pass by pass those it is surest of are uncovered.

After MaskGIT (Chang et al. 2022, arXiv 2202.04200; paper section 3.4 and table 15). Knows nothing of processes.
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
from elm_dist.sampling.generate import Known, OnCodes, ignore, null_labels, pick
from elm_dist.sampling.guidance import guidance_scales


@torch.inference_mode()
def uncover(
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

    Each pass draws all hidden codes and hides those again that it is least sure of, fewer each time. How sure it is:
    the log of the probability of what it drew, and Gumbel noise times `mask_temperature`, which fades away. With
    `remask` codes that were uncovered before may be hidden again, too; those that are `known` never. Guidance grows
    from pass to pass as elsewhere from position to position. An image depends on its label, its seed and what is known
    alone.
    """
    codes = torch.full((len(labels), shape.positions, shape.subtokens), shape.vocabulary, device=labels.device)
    is_known = torch.zeros(shape.positions, dtype=torch.bool, device=labels.device)
    if known is not None:
        is_known = torch.from_numpy(known.positions).to(labels.device)
        codes = torch.where(is_known[:, None], known.codes.to(labels.device), codes)
    is_hidden = ~is_known.expand(len(labels), -1)
    counts = hidden_counts(int((~is_known).sum()), sampling.iterations)
    scales = guidance_scales(sampling.cfg_schedule, sampling.cfg_scale, len(counts), sampling.cfg_interval)
    logits_of = _guided(build_decoder, labels, null_class, any(scale != 1 for scale in scales))
    for number, (scale, count) in enumerate(zip(scales, counts, strict=True)):
        logits = logits_of(codes, scale)
        draws, noise = _draws(seeds, shape, number, labels.device)
        codes = torch.where(is_hidden[..., None], pick(logits, draws, sampling), codes)
        sureness = _log_probabilities(logits / sampling.temperature, codes)
        sureness += sampling.mask_temperature * (1 - (number + 1) / len(counts)) * noise
        settled = is_known if sampling.remask else is_known | ~is_hidden
        is_hidden = _least(sureness.masked_fill(settled, torch.inf), count)
        codes = codes.masked_fill(is_hidden[..., None], shape.vocabulary)
        on_progress(codes, ~is_hidden.any(dim=0).cpu().numpy())
    return codes


def hidden_counts(cells: int, iterations: int) -> list[int]:
    """Return how many of `cells` are still hidden after each pass: each uncovers one or more, the last all that are."""
    counts: list[int] = []
    left = cells
    for number in range(1, iterations + 1):
        if left:
            wanted = math.floor(cells * math.cos(math.pi / 2 * number / iterations))
            left = 0 if number == iterations else min(max(wanted, 1), left - 1)
            counts.append(left)
    return counts


def _guided(
    build_decoder: Callable[[int], DecoderStep], labels: Tensor, null_class: int, is_guided: bool
) -> Callable[[Tensor, float], Tensor]:
    """Return what gives the logits (batch, positions, subtokens, vocabulary), fp32, of codes at a scale of guidance."""
    batch = len(labels)
    step = build_decoder(2 * batch if is_guided else batch)
    both = torch.cat([labels, null_labels(labels, null_class)])

    def logits_of(codes: Tensor, scale: float) -> Tensor:
        if scale == 1:
            return step((codes, labels), 0, 0, codes.shape[1]).float()
        guided, free = step((codes.repeat(2, 1, 1), both), 0, 0, codes.shape[1]).float().chunk(2)
        return free + (guided - free) * scale

    return logits_of


def _log_probabilities(logits: Tensor, codes: Tensor) -> Tensor:
    """Return the log of the probability (batch, positions) of whole codes, all of whose sub-tokens must be."""
    return logits.log_softmax(dim=-1).gather(-1, codes[..., None]).squeeze(-1).sum(dim=-1)


def _least(values: Tensor, count: int) -> Tensor:
    """Return where the `count` least of each row of `values` (batch, positions) are."""
    places = values.topk(count, dim=1, largest=False).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, places, True)


def _draws(seeds: Sequence[int], shape: CodeShape, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the random numbers of a pass for each image.

    They are those that draw its codes, (batch, positions, subtokens, subtoken_bits), and Gumbel noise for its
    positions, (batch, positions).
    """
    size = (shape.positions, shape.subtokens, shape.subtoken_bits)
    picks, places = (number * math.prod(part) + np.arange(math.prod(part)) for part in (size, size[:1]))
    draws = np.stack([uniforms(seed, "uncover", picks) for seed in seeds]).reshape(-1, *size)
    noise = np.stack([uniforms(seed, "confidence", places) for seed in seeds])
    gumbel = -np.log(-np.log(np.clip(noise, np.finfo(np.float64).tiny, None)))
    return torch.from_numpy(draws).to(device), torch.from_numpy(gumbel).float().to(device)

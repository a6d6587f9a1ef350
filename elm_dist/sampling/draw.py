"""Draws the codes of images with any model: whatever it does, codes are in raster order here, row by row.

Knows nothing of processes, as `generate.py` and `uncover.py` do not, which it calls.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.codes.scan import inverse, scan_order
from elm_dist.config import Config, SamplingConfig
from elm_dist.model.elm import DecoderStep, code_shape
from elm_dist.sampling.generate import Known, OnCodes, generate, ignore
from elm_dist.sampling.uncover import uncover

METHODS = {"autoregressive": generate, "masked": uncover}


def draw_codes(
    config: Config,
    build_decoder: Callable[[int], DecoderStep],
    labels: Tensor,
    seeds: Sequence[int],
    *,
    sampling: SamplingConfig | None = None,
    known: Known | None = None,
    on_progress: OnCodes = ignore,
) -> Tensor:
    """Return sub-tokens (batch, positions, subtokens), int64, of one image per label (batch,) and seed.

    See `generate` and `uncover` for what they depend on; `known` and what `on_progress` gets are in raster order, too.
    `sampling` is the configuration's own by default.
    """
    order = scan_order(config.model.scan, config.tokenizer.grid)
    is_raster = np.array_equal(order, np.arange(len(order)))
    there, back = (slice(None), slice(None)) if is_raster else (order.copy(), inverse(order))  # a slice costs no copy

    def in_raster(codes: Tensor, is_done: NDArray[np.bool_]) -> None:
        on_progress(codes[:, back], is_done[back])

    codes = METHODS[config.model.modelling](
        build_decoder,
        code_shape(config.model, config.tokenizer.grid),
        labels,
        seeds,
        config.model.num_classes,
        sampling or config.sampling,
        known=None if known is None else Known(known.codes[:, there], known.positions[there]),
        on_progress=in_raster,
    )
    return codes[:, back]

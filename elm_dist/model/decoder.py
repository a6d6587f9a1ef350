"""Decodes with a folded model: one pass over new positions alone, and a cache of the keys and values of all others.

A step can be static: nothing in it but the contents of tensors depends on the position, and attention goes over the
whole cache with a mask. That is what `torch.compile` compiles once for all positions, and what a CUDA graph replays.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from elm_dist.model.attention import KeyValueCache
from elm_dist.model.folded import FoldedELM


class FoldedDecoder:
    """Decodes one batch: its `step` is a `DecoderStep`. With `cuda_graphs`, steps of one position are replayed."""

    def __init__(self, model: FoldedELM, batch: int, cuda_graphs: bool = False) -> None:
        self.model = model
        self.caches = model.empty_caches(batch)
        self.graphs: dict[tuple[int, int], CapturedStep] | None = {} if cuda_graphs else None

    @torch.inference_mode()
    def step(self, x: Tensor, position: int, row: int = 0, outputs: int = 1) -> Tensor:
        """Return the logits (rows, outputs, subtokens, vocabulary) at the last `outputs` positions of `x`."""
        model = self.model
        if position and x.shape[1] == 1 and (model.is_compiled or self.graphs is not None):
            return self._static_step(x, position, row)
        stream = model.embedding.embed_codes(x) if position else model.embedding.embed_classes(x)
        end = position + stream.shape[1]
        place = model.places.between(position, end)
        for block, cache in zip(model.blocks, self.caches, strict=True):
            stream = block(stream, place, cache.part(row, len(x), end))
        return model.head(stream[:, -outputs:])

    def _static_step(self, ids: Tensor, position: int, row: int) -> Tensor:
        positions = torch.full((1,), position, device=ids.device)
        caches = [cache.part(row, len(ids), self.model.positions) for cache in self.caches]

        def step(ids: Tensor, positions: Tensor) -> Tensor:
            return static_step(self.model, caches, ids, positions)

        if self.graphs is None:
            return step(ids, positions)
        key = (row, len(ids))
        if key not in self.graphs:
            self.graphs[key] = CapturedStep(step, ids, positions)
        return self.graphs[key](ids, positions)


def static_step(model: FoldedELM, caches: list[KeyValueCache], ids: Tensor, positions: Tensor) -> Tensor:
    """Return the logits (rows, 1, subtokens, vocabulary) after sub-tokens (rows, 1, subtokens) at `positions` (1,)."""
    place = model.places.at(positions)
    stream = model.embedding.embed_codes(ids)
    for block, cache in zip(model.blocks, caches, strict=True):
        stream = model.static_block(block, stream, place, cache)
    return model.head(stream)


class CapturedStep:
    """A CUDA graph of a step: recorded once, then replayed for other codes and positions without launching kernels."""

    def __init__(self, step: Callable[[Tensor, Tensor], Tensor], ids: Tensor, positions: Tensor) -> None:
        self.inputs = (ids.clone(), positions.clone())
        with torch.cuda.device(ids.device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # the first call compiles and allocates, which cannot be recorded
                step(*self.inputs)
            torch.cuda.current_stream().wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.logits = step(*self.inputs)

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        for held, new in zip(self.inputs, (ids, positions), strict=True):
            held.copy_(new)
        self.graph.replay()
        return self.logits.clone()  # the next replay writes over them

"""Copies what one rank keeps of a checkpoint to host memory, so that it can be written while training goes on.

Ranks hold pieces: a piece is a run of elements of a flattened tensor. Knows nothing of files.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class RankLayout(Protocol):
    """A rank's place; `str` says it in words."""

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def replica(self) -> int: ...
    @property
    def replicas(self) -> int: ...


class TensorSource(Protocol):
    """The tensors of this rank's stage, some of each held here."""

    @property
    def kinds(self) -> list[str]: ...
    @property
    def names(self) -> list[str]: ...
    def shape(self, name: str) -> torch.Size: ...
    def is_replicated(self, name: str) -> bool: ...
    def piece(self, kind: str, name: str) -> tuple[int, Tensor] | None: ...
    def scatter(self, kind: str, name: str, read: Callable[[int, int], Tensor]) -> None: ...


class Span(NamedTuple):
    """Elements `start` to `stop` of a flattened tensor."""

    start: int
    stop: int


@dataclass(frozen=True)
class HostPart:
    """What one rank writes of one kind of tensors."""

    kind: str
    spans: dict[str, Span]
    values: Tensor  # of all spans, one after the other; fp32


class HostCopy:
    """Host memory for one checkpoint at a time: taken at the first, and used again for all that follow."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self, state: TensorSource, layout: RankLayout) -> list[HostPart]:
        """Copy this rank's part of every kind; no rank waits for another, and none holds more than its part."""
        parts = []
        on_gpu = False
        for kind in state.kinds:
            pieces = list(_pieces(state, kind, layout))
            if not pieces:
                continue
            is_cuda = pieces[0][2].is_cuda
            on_gpu = on_gpu or is_cuda
            buffer = self._buffer(kind, sum(len(values) for *_, values in pieces), is_cuda)
            spans, end = {}, 0
            for name, start, values in pieces:
                spans[name] = Span(start, start + len(values))
                begin, end = end, end + len(values)
                buffer[begin:end].copy_(values, non_blocking=True)
            parts.append(HostPart(kind, spans, buffer))
        if on_gpu:
            torch.cuda.synchronize()  # the next step changes what is being copied
        return parts

    def _buffer(self, kind: str, size: int, pinned: bool) -> Tensor:
        if kind not in self._buffers or len(self._buffers[kind]) != size:
            self._buffers[kind] = torch.empty(size, dtype=torch.float32, pin_memory=pinned)
        return self._buffers[kind]


def _pieces(state: TensorSource, kind: str, layout: RankLayout) -> Iterator[tuple[str, int, Tensor]]:
    """Yield (name, start, values) of what this rank writes; what all replicas hold, they write in turns."""
    for index, name in enumerate(state.names):
        if state.is_replicated(name) and index % layout.replicas != layout.replica:
            continue
        piece = state.piece(kind, name)
        if piece is not None:
            yield name, *piece

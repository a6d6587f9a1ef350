"""Hands the stream from part to part of the model where there are forward passes alone: evaluation and sampling."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from elm_dist.parallel.layout import Layout


class Relay:
    """The streams (`shape`) between this rank's parts and those of the other ranks of its replica."""

    def __init__(self, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self._layout, self._shape, self._dtype, self._device = layout, shape, dtype, device
        self._sent: list[tuple[Any, Tensor]] = []  # with the tensors, which must live until they are sent

    def receive(self, part: int, here: Any) -> Any:
        """Return the input of `part`: `here`, where it begins the model or follows on another part of this rank."""
        if part == 0 or self._is_mine(part - 1):
            return here
        x = torch.empty(self._shape, dtype=self._dtype, device=self._device)
        dist.recv(x, self._layout.rank_of_part(part - 1))
        return x

    def send(self, part: int, x: Tensor) -> None:
        """Send the output of `part` to the rank of the next one, without waiting for it to arrive."""
        if part + 1 < self._layout.parts and not self._is_mine(part + 1):
            x = x.contiguous()
            self._sent.append((dist.isend(x, self._layout.rank_of_part(part + 1)), x))

    def wait(self) -> None:
        """Wait until everything that was sent has arrived."""
        for work, _ in self._sent:
            work.wait()
        self._sent.clear()

    def _is_mine(self, part: int) -> bool:
        return self._layout.rank_of_part(part) == self._layout.rank

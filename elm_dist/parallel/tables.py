"""Brings the embedding's tables to the rank of a masked model's head, which compares with them and does not learn them.

One copy in a step is what they would be if they were shared: nothing changes them before its end.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from elm_dist.model.elm import share_tables
from elm_dist.model.embedding import MaskedEmbedding
from elm_dist.model.head import MaskedHead
from elm_dist.parallel.layout import Layout


class TableCourier:
    """Stands between the first and the last part of a pipeline; there is nothing to bring where one rank has both."""

    def __init__(self, layers: Sequence[nn.Module], layout: Layout) -> None:
        self._embedding = next((layer for layer in layers if isinstance(layer, MaskedEmbedding)), None)
        self._head = next((layer for layer in layers if isinstance(layer, MaskedHead)), None)
        self._first, self._last = (layout.rank_of_part(part) for part in (0, layout.parts - 1))
        share_tables(layers)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the tables as they are now. Both ranks call this at the same point of a step."""
        if self._first == self._last:
            return
        if self._embedding is not None:
            for table in self._embedding.tables():
                dist.send(table.detach(), self._last)
        if self._head is not None:
            copies = [self._receive(self._head, len(bias)) for bias in self._head.biases]
            self._head.tables = lambda: copies

    def _receive(self, head: MaskedHead, entries: int) -> Tensor:
        weight = head.transform.weight
        copy = weight.new_empty(entries, weight.shape[1])
        dist.recv(copy, self._first)
        return copy

"""Adaptive layer norm: the class scales and shifts what a block's branches see, and scales what they say.

The stream then carries the embedding of the class, as it was at first, in a row of its own before the sequence, so that
every stage of a pipeline has it. After Peebles and Xie 2023 (arXiv 2212.09748); all factors are one at first.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Modulation(NamedTuple):
    """What the class does to one branch: each (batch, 1, channels)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor

    def before(self, x: Tensor) -> Tensor:
        """Return what the branch gets for the normed stream `x`."""
        return x * (1 + self.scale) + self.shift

    def after(self, y: Tensor) -> Tensor:
        """Return what is added to the stream for the branch's result `y`."""
        return y * (1 + self.gate)


class AdaLN(nn.Module):
    """The modulations of a block's two branches."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.modulate = nn.Linear(size, 6 * size, bias=False)

    def forward(self, label: Tensor) -> tuple[Modulation, Modulation]:
        """Return the modulations for the class (batch, 1, channels)."""
        parts = self.modulate(F.silu(label)).chunk(6, dim=2)
        return Modulation(*parts[:3]), Modulation(*parts[3:])

    @staticmethod
    def split(x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the class (batch, 1, channels) and the sequence of a stream."""
        return x[:, :1], x[:, 1:]


def join(label: Tensor, sequence: Tensor) -> Tensor:
    """Return the stream of the class and a sequence."""
    return torch.cat([label, sequence], dim=1)

"""The matrices of the blocks in 8 bits, for sampling: a quarter of the memory of fp32, half of that of bf16.

Weights alone are rounded, with one scale per output channel; what they are multiplied with keeps its precision.
docs/sampling.md has what that does to the pictures.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.model.block import Block


class Int8Linear(nn.Module):
    """A linear layer without bias of int8 weights (out, in), computed in the precision of its input."""

    weight: Tensor
    scale: Tensor  # (out,)

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        assert linear.bias is None
        scale = linear.weight.detach().abs().amax(dim=1).clamp(min=1e-12) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale.unsqueeze(1)).round().char())
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)


def quantize_blocks(model: nn.Module) -> None:
    """Replace every linear layer of the blocks of `model`; embeddings, norms and heads stay as they are."""
    linears = [
        (owner, name, child)
        for block in model.modules()
        if isinstance(block, Block)
        for owner in block.modules()
        for name, child in owner.named_children()
        if isinstance(child, nn.Linear)
    ]
    for owner, name, child in linears:
        setattr(owner, name, Int8Linear(child))

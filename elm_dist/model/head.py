"""The model's last layer, one softmax per sub-token, and the loss on it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.codes.packing import unpack_subtokens
from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import ModelConfig
from elm_dist.model.kernels import Kernels
from elm_dist.model.layers import RMSNorm


class Head(nn.Module):
    """The final norm and `subtokens` parallel heads, independent of each other given the stream (paper section 3.5)."""

    def __init__(self, model: ModelConfig, code_shape: CodeShape, kernels: Kernels) -> None:
        super().__init__()
        self.norm = RMSNorm(model.hidden_size, kernels.norm)
        self.outputs = nn.ModuleList(
            nn.Linear(model.hidden_size, code_shape.vocabulary, bias=False) for _ in range(code_shape.subtokens)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, length, subtokens, vocabulary) for the stream (batch, length, hidden_size)."""
        x = self.norm(x)
        return torch.stack([output(x) for output in self.outputs], dim=2)


class CodeLoss:
    """Mean cross-entropy per sub-token, in nats, computed in fp32; keeps sums per head until they are collected."""

    def __init__(self, code_shape: CodeShape) -> None:
        self.code_shape = code_shape
        self.sums = torch.zeros(0)
        self.reset()

    def reset(self) -> None:
        self.sums = torch.zeros(2 * self.code_shape.subtokens + 1, dtype=torch.float64)

    def __call__(self, logits: Tensor, packed: Tensor) -> Tensor:
        """Return the loss (a scalar) of logits (batch, positions, subtokens, vocabulary) on packed codes."""
        targets = unpack_subtokens(packed, self.code_shape)
        losses = F.cross_entropy(logits.float().flatten(0, 2), targets.flatten(), reduction="none").view(targets.shape)
        with torch.no_grad():
            correct = (logits.argmax(dim=3) == targets).double().sum(dim=(0, 1))
            count = correct.new_full((1,), targets[..., 0].numel())
            self.sums = self.sums.to(losses.device) + torch.cat([losses.double().sum(dim=(0, 1)), correct, count])
        return losses.mean()

"""The model's last layer: one softmax per sub-token, of which it gives the logits."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import ModelConfig
from elm_dist.model.kernels import Kernels
from elm_dist.model.layers import RMSNorm


class Head(nn.Module):
    """The final norm and `subtokens` parallel heads, independent of each other given the stream (paper section 3.5)."""

    def __init__(self, model: ModelConfig, code_shape: CodeShape, kernels: Kernels) -> None:
        super().__init__()
        self.code_shape = code_shape
        self.norm = RMSNorm(model.hidden_size, kernels.norm)
        self.outputs = nn.ModuleList(
            nn.Linear(model.hidden_size, code_shape.vocabulary, bias=False) for _ in range(code_shape.subtokens)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, length, subtokens, vocabulary) for the stream (batch, length, hidden_size).

        What stands in the stream before the positions of an image predicts nothing.
        """
        x = self.norm(x[:, -self.code_shape.positions :])
        return torch.stack([output(x) for output in self.outputs], dim=2)


class MaskedHead(nn.Module):
    """The head of masked modelling: compares a transformed stream with the tables that codes are embedded by.

    It learns nothing about these tables: the embedding's gradients come from its inputs alone, as in the published
    models. Whoever builds the model says where the tables, (vocabulary + 1, hidden_size) each, are.
    """

    tables: Callable[[], Sequence[Tensor]]

    def __init__(self, model: ModelConfig, code_shape: CodeShape, kernels: Kernels) -> None:
        super().__init__()
        size = model.hidden_size
        self.code_shape = code_shape
        self.norm = RMSNorm(size, kernels.norm)
        self.transform = nn.Linear(size, size)
        self.transform_norm = nn.LayerNorm(size)
        # With an entry for the mask token, which is never predicted: published files have it.
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(code_shape.vocabulary + 1)) for _ in range(code_shape.subtokens)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, positions, subtokens, vocabulary) for the stream (batch, length, hidden_size)."""
        x = F.gelu(self.transform(self.norm(x[:, -self.code_shape.positions :])))
        norm, entries = self.transform_norm, self.code_shape.vocabulary
        x = F.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps).to(x.dtype)
        pairs = zip(self.tables(), self.biases, strict=True)
        return torch.stack([F.linear(x, table.detach()[:entries], bias[:entries]) for table, bias in pairs], dim=2)

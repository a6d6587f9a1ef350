"""The model's last layer: one softmax per sub-token, of which it gives the logits."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.codes.packing import unpack_subtokens
from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import ModelConfig
from elm_dist.model.kernels import Kernels
from elm_dist.model.layers import RMSNorm, SwiGLU


class CodeHead(nn.Module):
    """What heads share: the final norm, and how they are asked for logits.

    `forward` tells what follows from the stream alone. Whoever has codes asks on: a training for the logits of whole
    ones, a sampler for those of the sub-tokens that come next. Parallel heads have told all by then.
    """

    def __init__(self, model: ModelConfig, code_shape: CodeShape, kernels: Kernels) -> None:
        super().__init__()
        self.code_shape = code_shape
        self.norm = RMSNorm(model.hidden_size, kernels.norm)

    @property
    def told_size(self) -> tuple[int, ...]:
        """The size of what `forward` tells of an image."""
        return self.code_shape.positions, self.code_shape.subtokens, self.code_shape.vocabulary

    def logits_of(self, told: Tensor, rows: Tensor) -> Tensor:
        """Return the logits (batch, positions, subtokens, vocabulary) that predict the codes of `rows` of bytes."""
        return told

    def next_logits(self, told: Tensor, drawn: Sequence[Tensor] = ()) -> Tensor:
        """Return the logits (batch, length, n, vocabulary) of the next n sub-tokens, which can be drawn together.

        `drawn` are those before them in their position, (batch, length) each.
        """
        return told


class Head(CodeHead):
    """A softmax for each sub-token, independent of each other given the stream (paper section 3.5)."""

    def __init__(self, model: ModelConfig, code_shape: CodeShape, kernels: Kernels) -> None:
        super().__init__(model, code_shape, kernels)
        self.outputs = _build_outputs(model, code_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, length, subtokens, vocabulary) for the stream (batch, length, hidden_size).

        What stands in the stream before the positions of an image predicts nothing.
        """
        x = self.norm(x[:, -self.code_shape.positions :])
        return torch.stack([output(x) for output in self.outputs], dim=2)


class SequentialHead(CodeHead):
    """A softmax for each sub-token, given the stream and the sub-tokens before it in the position (beyond the paper).

    These come as the sum of a vector for each, normed to the size of the stream, and one SwiGLU mixes both.
    """

    def __init__(self, model: ModelConfig, code_shape: CodeShape, kernels: Kernels) -> None:
        super().__init__(model, code_shape, kernels)
        self.size = size = model.hidden_size
        self.codes = nn.ModuleList(nn.Embedding(code_shape.vocabulary, size) for _ in range(code_shape.subtokens - 1))
        self.codes_norm = RMSNorm(size, kernels.norm)
        self.mix = SwiGLU(size, size)
        self.outputs = _build_outputs(model, code_shape)

    @property
    def told_size(self) -> tuple[int, ...]:
        return self.code_shape.positions, self.size

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed stream (batch, length, hidden_size): the codes are not known yet."""
        return self.norm(x[:, -self.code_shape.positions :])

    def logits_of(self, told: Tensor, rows: Tensor) -> Tensor:
        *known, _ = unpack_subtokens(rows, self.code_shape).unbind(dim=2)
        return self._logits(told, known, first=0)

    def next_logits(self, told: Tensor, drawn: Sequence[Tensor] = ()) -> Tensor:
        return self._logits(told, drawn, first=len(drawn))

    def _logits(self, told: Tensor, known: Sequence[Tensor], first: int) -> Tensor:
        """Return the logits of the sub-tokens from `first` on up to the one after those that are `known`."""
        states, before = [told], torch.zeros_like(told)
        for table, ids in zip(self.codes[: len(known)], known, strict=True):
            before = before + table(ids)
            states.append(told + self.codes_norm(before))
        mixed = torch.stack(states[first:], dim=2)
        mixed = mixed + self.mix(mixed)
        pairs = zip(self.outputs[first : len(states)], mixed.unbind(dim=2), strict=True)
        return torch.stack([output(state) for output, state in pairs], dim=2)


def _build_outputs(model: ModelConfig, code_shape: CodeShape) -> nn.ModuleList:
    entries = code_shape.vocabulary
    return nn.ModuleList(nn.Linear(model.hidden_size, entries, bias=False) for _ in range(code_shape.subtokens))


class MaskedHead(CodeHead):
    """The head of masked modelling: compares a transformed stream with the tables that codes are embedded by.

    It learns nothing about these tables: the embedding's gradients come from its inputs alone, as in the published
    models. Whoever builds the model says where the tables, (vocabulary + 1, hidden_size) each, are.
    """

    tables: Callable[[], Sequence[Tensor]]

    def __init__(self, model: ModelConfig, code_shape: CodeShape, kernels: Kernels) -> None:
        super().__init__(model, code_shape, kernels)
        size = model.hidden_size
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

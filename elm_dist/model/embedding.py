"""The model's first layer: the class and the codes of an image become a sequence of vectors."""

import torch
from torch import Tensor, nn

from elm_dist.codes.packing import unpack_subtokens
from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import ModelConfig
from elm_dist.model.adaln import join
from elm_dist.model.layers import Dropout, current_micro_batch_seed
from elm_dist.model.masking import split_mask


class Embedding(nn.Module):
    """Embeds the class at position 0 and the code that comes as number p at position p, from 1.

    A code is embedded by one table per sub-token, side by side, and one projection back to the hidden size (paper
    section 3.5). Class `num_classes` is the null class of classifier-free guidance.
    """

    def __init__(self, model: ModelConfig, code_shape: CodeShape, length: int) -> None:
        super().__init__()
        self.code_shape = code_shape
        self.is_adaptive = model.conditioning == "adaln"
        self.classes = nn.Embedding(model.num_classes + 1, model.hidden_size)
        self.codes = nn.ModuleList(nn.Embedding(self.entries, model.hidden_size) for _ in range(code_shape.subtokens))
        wide = code_shape.subtokens * model.hidden_size
        self.project = nn.Linear(wide, model.hidden_size, bias=False) if code_shape.subtokens > 1 else nn.Identity()
        is_learned = model.position_encoding == "learned"
        self.positions = nn.Embedding(length, model.hidden_size) if is_learned else None
        self.dropout = Dropout(model.dropout, "embedding")

    @property
    def entries(self) -> int:
        """Rows of a sub-token's table."""
        return self.code_shape.vocabulary

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Embed the rows of bytes (batch, bytes) and labels (batch,) of a batch as the stream.

        The stream is the sequence (batch, length, hidden_size), before which an adaptive model has its class.
        """
        rows, labels = batch
        stream = self.embed(self.input_ids(rows), labels)
        seed = current_micro_batch_seed() if self.training else None
        if not self.is_adaptive:
            return self.dropout(stream, seed)
        return join(stream[:, :1], self.dropout(stream[:, 1:], seed))

    def input_ids(self, rows: Tensor) -> Tensor:
        """Return the sub-tokens that are inputs: all but the last code's, after which nothing comes."""
        return unpack_subtokens(rows, self.code_shape)[:, :-1]

    def embed(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Return the stream of sub-tokens (batch, length - 1, subtokens) and labels (batch,)."""
        start = self.start(labels)
        return torch.cat([start, self.go_on(ids, 1)], dim=1) if ids.shape[1] else start

    def start(self, labels: Tensor) -> Tensor:
        """Return the stream (batch, 1, or 2 of an adaptive model, hidden_size) at position 0."""
        classes = self.embed_classes(labels)
        first = classes if self.positions is None else classes + self.positions.weight[:1]
        return join(classes, first) if self.is_adaptive else first

    def go_on(self, ids: Tensor, position: int) -> Tensor:
        """Return the stream (batch, length, hidden_size) of sub-tokens (batch, length, subtokens) at `position` on."""
        codes = self.embed_codes(ids)
        if self.positions is None:
            return codes
        return codes + self.positions.weight[position : position + codes.shape[1]]

    def embed_classes(self, labels: Tensor) -> Tensor:
        """Embed labels (batch,), or mixtures of classes (batch, num_classes + 1), as (batch, 1, hidden_size)."""
        if labels.is_floating_point():  # of each class its weight: something between two (paper, appendix)
            return (labels.to(self.classes.weight.dtype) @ self.classes.weight).unsqueeze(1)
        return self.classes(labels).unsqueeze(1)

    def embed_codes(self, ids: Tensor) -> Tensor:
        """Embed sub-tokens (batch, length, subtokens) as (batch, length, hidden_size)."""
        return self.project(torch.cat([table(ids[..., s]) for s, table in enumerate(self.codes)], dim=-1))


class MaskedEmbedding(Embedding):
    """Embeds all codes, those that are hidden as the mask token: the last row of each table."""

    @property
    def entries(self) -> int:
        return self.code_shape.vocabulary + 1

    def tables(self) -> list[Tensor]:
        """Return what sub-tokens are embedded by, (entries, hidden_size) each."""
        return [table.weight for table in self.codes if isinstance(table, nn.Embedding)]

    def input_ids(self, rows: Tensor) -> Tensor:
        packed, is_hidden = split_mask(rows, self.code_shape)
        ids = unpack_subtokens(packed, self.code_shape)
        return ids.masked_fill(is_hidden.unsqueeze(2), self.code_shape.vocabulary)

"""The model's first layer: the class and the codes of an image become a sequence of vectors."""

import torch
from torch import Tensor, nn

from elm_dist.codes.packing import unpack_subtokens
from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import ModelConfig
from elm_dist.model.layers import Dropout, current_micro_batch_seed


class Embedding(nn.Module):
    """Embeds the class at position 0 and the code of cell p - 1 at position p.

    A code is embedded by one table per sub-token, side by side, and one projection back to the hidden size (paper
    section 3.5). Class `num_classes` is the null class of classifier-free guidance.
    """

    def __init__(self, model: ModelConfig, code_shape: CodeShape) -> None:
        super().__init__()
        self.code_shape = code_shape
        self.classes = nn.Embedding(model.num_classes + 1, model.hidden_size)
        self.codes = nn.ModuleList(
            nn.Embedding(code_shape.vocabulary, model.hidden_size) for _ in range(code_shape.subtokens)
        )
        wide = code_shape.subtokens * model.hidden_size
        self.project = nn.Linear(wide, model.hidden_size, bias=False) if code_shape.subtokens > 1 else nn.Identity()
        self.dropout = Dropout(model.dropout, "embedding")

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Embed packed codes (batch, packed_bytes) and labels (batch,) as (batch, positions, hidden_size).

        The last code is not an input: nothing comes after it.
        """
        packed, labels = batch
        ids = unpack_subtokens(packed, self.code_shape)
        sequence = torch.cat([self.embed_classes(labels), self.embed_codes(ids[:, :-1])], dim=1)
        return self.dropout(sequence, current_micro_batch_seed() if self.training else None)

    def embed_classes(self, labels: Tensor) -> Tensor:
        """Embed labels (batch,), or mixtures of classes (batch, num_classes + 1), as (batch, 1, hidden_size)."""
        if labels.is_floating_point():  # of each class its weight: something between two (paper, appendix)
            return (labels.to(self.classes.weight.dtype) @ self.classes.weight).unsqueeze(1)
        return self.classes(labels).unsqueeze(1)

    def embed_codes(self, ids: Tensor) -> Tensor:
        """Embed sub-tokens (batch, length, subtokens) as (batch, length, hidden_size)."""
        return self.project(torch.cat([table(ids[..., s]) for s, table in enumerate(self.codes)], dim=-1))

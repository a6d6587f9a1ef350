"""How alike a query and a key are: what is done to both before attention takes their product over sqrt(head_size).

Each takes queries and keys (batch, length, heads, head_size), of keys maybe fewer heads, and returns them made ready.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.config import ModelConfig
from elm_dist.model.layers import RMSNorm

SHARPNESS, SHARPEST = 10.0, 100.0  # what cosines are multiplied with at first, and at most


class DotProduct(nn.Module):
    """The scaled product as it is."""

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q, k


class NormedDotProduct(nn.Module):
    """The scaled product of what RMS norms leave, which bounds it (Dehghani et al. 2023, arXiv 2302.05442)."""

    def __init__(self, head_size: int, norm: str) -> None:
        super().__init__()
        self.query_norm, self.key_norm = RMSNorm(head_size, norm), RMSNorm(head_size, norm)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.query_norm(q), self.key_norm(k)


class Cosine(nn.Module):
    """The cosine of the angle, times what each head learns (Liu et al. 2022, arXiv 2111.09883)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(heads))

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        sharpness = (SHARPNESS * self.scale.float()).clamp(max=SHARPEST) * q.shape[3] ** 0.5
        q_direction, k_direction = (F.normalize(part.float(), dim=3) for part in (q, k))
        return (q_direction * sharpness.unsqueeze(1)).to(q.dtype), k_direction.to(k.dtype)


def build_similarity(model: ModelConfig, norm: str) -> nn.Module:
    """Return what `model.attention` and `model.qk_norm` name; `norm` is a kernel of `layers.RMS_NORM`."""
    if model.attention == "cosine":
        return Cosine(model.num_heads)
    return NormedDotProduct(model.head_size, norm) if model.qk_norm else DotProduct()

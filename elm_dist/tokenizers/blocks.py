"""What convolutional tokenizers are built of: residual, attention and resampling blocks. Knows nothing of codes.

Tensors are feature maps (batch, channels, height, width). Weights start as torch starts them.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    """Return a 3 x 3 convolution that keeps the size."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, beside a skip; the skip is a 1 x 1 convolution where the channels change."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = convolution(channels_in, channels_out)
        self.norm2 = group_norm(channels_out)
        self.conv2 = convolution(channels_out, channels_out)
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(features)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return self.skip(features) + hidden


class AttentionBlock(nn.Module):
    """Self-attention of one head over all positions of the map, beside a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        normed = self.norm(features)
        query, key, value = (layer(normed).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(query, key, value)  # the scale is channels ** -0.5, as there is one head
        return features + self.proj_out(mixed.transpose(1, 2).reshape(features.shape))


class Downsample(nn.Module):
    """Halves height and width by a convolution of stride 2, padded at the right and bottom edge only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(F.pad(features, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width by repeating pixels, then smooths by a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = convolution(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(F.interpolate(features, scale_factor=2.0, mode="nearest"))

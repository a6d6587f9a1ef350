"""The encoder and the decoder that all tokenizers share, as one list of layers each. Knows nothing of codes.

The order of the layers is that of the published weights, so that renaming their keys is all that an import takes. A
VQGAN's differ from a BAE's in what its authors chose: SiLU after the last norm, one more residual block in each level
of the decoder, and no norm at the decoder's start.
"""

from torch import nn

from elm_dist.config import TokenizerConfig
from elm_dist.tokenizers.blocks import AttentionBlock, Downsample, ResidualBlock, Upsample, convolution, group_norm


def build_encoder(config: TokenizerConfig) -> nn.Sequential:
    """Return the net from folded pixels to embedding_channels."""
    channels = config.base_channels
    blocks: list[nn.Module] = [convolution(3 * config.patch_size**2, channels)]
    for index, (width, attends) in enumerate(_levels(config)):
        if index > 0:
            blocks.append(Downsample(channels))
        blocks += _level(channels, width, config.res_blocks, attends)
        channels = width
    blocks += [*_middle(channels), *_last_norm(channels, config), convolution(channels, config.embedding_channels)]
    return nn.Sequential(*blocks)


def build_decoder(config: TokenizerConfig) -> nn.Sequential:
    """Return the net from embedding_channels to folded pixels; a BAE's normalises the sum of embeddings first."""
    is_vqgan = config.kind == "vqgan"
    levels = _levels(config)[::-1]
    channels = levels[0][0]
    blocks: list[nn.Module] = [] if is_vqgan else [group_norm(config.embedding_channels)]
    blocks += [convolution(config.embedding_channels, channels), *_middle(channels)]
    for index, (width, attends) in enumerate(levels):
        if index > 0:
            blocks.append(Upsample(channels))
        blocks += _level(channels, width, config.res_blocks + is_vqgan, attends)
        channels = width
    blocks += [*_last_norm(channels, config), convolution(channels, 3 * config.patch_size**2)]
    return nn.Sequential(*blocks)


def _levels(config: TokenizerConfig) -> list[tuple[int, bool]]:
    """Return (channels, whether it attends) of each resolution, the finest first."""
    return [
        (config.base_channels * multiplier, min(size) in config.attention_resolutions)
        for multiplier, size in zip(config.channel_multipliers, config.feature_maps, strict=True)
    ]


def _level(channels: int, width: int, res_blocks: int, attends: bool) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for _ in range(res_blocks):
        blocks.append(ResidualBlock(channels, width))
        if attends:
            blocks.append(AttentionBlock(width))
        channels = width
    return blocks


def _middle(channels: int) -> list[nn.Module]:
    return [ResidualBlock(channels, channels), AttentionBlock(channels), ResidualBlock(channels, channels)]


def _last_norm(channels: int, config: TokenizerConfig) -> list[nn.Module]:
    return [group_norm(channels), nn.SiLU()] if config.kind == "vqgan" else [group_norm(channels)]

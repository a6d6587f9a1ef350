"""The one place that knows which kinds of tokenizers there are.

All of them turn images (batch, 3, H, W) in [0, 1] into packed codes by `image_codes` and back by `images_from_codes`.
"""

from elm_dist.config import TokenizerConfig
from elm_dist.tokenizers.bae import BAE
from elm_dist.tokenizers.vqgan import VQGAN

Tokenizer = BAE | VQGAN


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Return the tokenizer of `config`, its weights as they start."""
    return VQGAN(config) if config.kind == "vqgan" else BAE(config)

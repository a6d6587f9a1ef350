"""A small tokenizer, and `encode_images` with small shards: what the tests of `encode.py` and their processes share."""

from pathlib import Path

import torch

from elm_dist.config import ImageSize, TokenizerConfig
from elm_dist.data.encode import encode_images
from elm_dist.data.shards import Manifest
from elm_dist.tokenizers.bae import BAE

SIDE = 32  # pixels of a tile
SIZE = ImageSize(SIDE, SIDE)
TRAIN, VALIDATION = 24, 4  # tiles per class


def build_tokenizer() -> BAE:
    torch.manual_seed(0)
    return BAE(
        TokenizerConfig(
            directory=Path("tokenizer"),
            code_bits=16,
            image_size=SIZE,
            patch_size=4,
            base_channels=32,
            channel_multipliers=(1,),
            res_blocks=1,
            attention_resolutions=(),
            embedding_channels=32,
        )
    ).eval()


def encode(images: Path, out: Path, tokenizer: BAE, **changes: object) -> Manifest:
    options = {
        "batch_size": 8,
        "seed": 0,
        "flip": False,
        "views": "centre",
        "payload": "bits",
        "max_broken": 0.0,
        "record_rows": 16,
        "shard_samples": 20,
        **changes,
    }
    return encode_images(images, tokenizer, "ab12", out, **{"progress": lambda done, total: None, **options})

"""The first samples of a folder of shards, decoded and laid out as one PNG: a look at what a model will train on."""

from pathlib import Path

import numpy as np
import torch

from elm_dist.checkpoint.tokenizer import load_tokenizer, tokenizer_fingerprint
from elm_dist.data.payload import likeliest_codes
from elm_dist.data.shards import ShardReader, check_manifest_fits, load_manifest
from elm_dist.devices import choose_device
from elm_dist.sampling.images import enlarge, image_grid, save_png

IMAGES = 64


def draw_contact_sheet(shards: Path, tokenizer: Path, out: Path) -> None:
    """Write the first training samples in stored order, a random choice, as a PNG.

    Raises an ElmError if the shards or the tokenizer cannot be read, or if another tokenizer made the shards.
    """
    manifest = load_manifest(shards)
    device = choose_device("auto")
    model = load_tokenizer(tokenizer, device)
    check_manifest_fits(
        manifest,
        shards,
        code_bits=model.config.code_bits,
        grid=model.config.grid,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
    )
    reader = ShardReader(shards, manifest, "train")
    stored, _ = reader.read(np.arange(min(IMAGES, len(reader))))
    codes = torch.from_numpy(likeliest_codes(stored, manifest)).to(device)
    decoded = torch.cat([model.images_from_codes(code) for code in codes.split(8)])
    images = (decoded * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    save_png(out, enlarge(image_grid(images), manifest.image_size))

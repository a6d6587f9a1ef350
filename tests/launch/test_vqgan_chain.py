"""A VQGAN from images to samples by the commands that a BAE takes: shards, model and sampler do not tell them apart."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from command_line import elm
from photographs import write_tiles
from PIL import Image
from trained_run import TINY, TRAIN

CODEBOOK = 40  # no power of two: a sampler can write numbers that no entry has
SETTINGS = [
    *("tokenizer.kind=vqgan", f"tokenizer.codebook_size={CODEBOOK}", "tokenizer.codebook_dim=4"),
    *("tokenizer.code_bits=6", "model.subtokens=1", "model.subtoken_bits=6"),
    *("tokenizer_training.total_steps=4", "tokenizer_training.batch_size=4", "tokenizer_training.perceptual=none"),
    *("tokenizer_training.adversarial_weight=0", "tokenizer_training.loader_workers=0"),
    "monitoring.tensorboard=false",
]


def test_from_images_to_samples(tmp_path: Path) -> None:
    images = write_tiles(tmp_path / "images", train=20, validation=4)
    tokenizer, shards, run, out = (tmp_path / name for name in ("tokenizer", "shards", "run", "samples"))
    settings = [
        *SETTINGS,
        *(f"tokenizer_training.images={images}", f"tokenizer.directory={tokenizer}"),
        *(f"data.shards={shards}", f"run.directory={run}"),
    ]
    for command in (
        ["tokenizer", "train", str(TINY), *settings],
        ["tokenize", "--images", str(images), "--tokenizer", str(tokenizer), "--out", str(shards)],
        ["inspect", str(shards)],
    ):
        result = elm(*command)
        assert result.code == 0, result
    # In a process of its own: it tells its libraries by environment variables which process it is.
    subprocess.run([sys.executable, str(TRAIN), "--config", str(TINY), *settings], check=True, capture_output=True)
    result = elm("sample", str(run), "--out", str(out))
    assert result.code == 0, result
    pictures = [np.asarray(Image.open(path)) for path in sorted(out.glob("class_*/*.png"))]
    assert [picture.shape for picture in pictures] == [(32, 32, 3)] * 4

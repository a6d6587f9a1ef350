"""A tokenizer, shards of real images and a trained run, made in seconds by the product's own functions."""

import subprocess
import sys
from pathlib import Path

import torch
from photographs import write_tiles

from elm_dist.checkpoint.tokenizer import save_tokenizer
from elm_dist.config_file import load_config
from elm_dist.launch.tokenize import tokenize_images
from elm_dist.tokenizers.bae import BAE

TINY = Path(__file__).parent / "tiny_run.yaml"
TRAIN = Path(__file__).parent.parent / "elm_dist" / "train.py"


def tokenize_tiles(directory: Path) -> Path:
    """Write `directory`/tokenizer, its weights as they were drawn, and `directory`/shards; return `directory`."""
    images = write_tiles(directory / "images", train=40, validation=8)
    config = load_config(TINY).tokenizer
    torch.manual_seed(0)
    save_tokenizer(directory / "tokenizer", BAE(config), config)
    tokenize_images(images, directory / "tokenizer", directory / "shards", batch_size=16, seed=0, flip=False)
    return directory


def folders(tokenized: Path, run: Path) -> list[str]:
    """Return the overrides that lay a run and what `tokenize_tiles` made over tiny_run.yaml."""
    return [
        f"run.directory={run}",
        f"tokenizer.directory={tokenized / 'tokenizer'}",
        f"data.shards={tokenized / 'shards'}",
    ]


def train_tiny_run(directory: Path) -> Path:
    """Return the folder of a finished run of tiny_run.yaml, made in `directory`."""
    run = directory / "run"
    command = [sys.executable, str(TRAIN), "--config", str(TINY), *folders(tokenize_tiles(directory), run)]
    subprocess.run(command, check=True, capture_output=True)
    return run

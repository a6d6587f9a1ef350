"""`elm tokenize` with its options, on real images."""

from pathlib import Path

import pytest
import torch
from command_line import elm, refused
from photographs import write_tiles
from trained_run import TINY

from elm_dist.checkpoint.tokenizer import save_tokenizer
from elm_dist.config_file import load_config
from elm_dist.data.shards import load_manifest
from elm_dist.tokenizers.bae import BAE


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """The options that every call needs: images, of which there are 40 and 8, tokenizer, and the folder `shards`."""
    write_tiles(tmp_path / "images", train=10, validation=2)
    config = load_config(TINY).tokenizer
    torch.manual_seed(0)
    save_tokenizer(tmp_path / "tokenizer", BAE(config), config)
    names = {"--images": "images", "--tokenizer": "tokenizer", "--out": "shards"}
    return [part for option, name in names.items() for part in (option, str(tmp_path / name))]


def test_ten_crops_as_probabilities(options: list[str], tmp_path: Path) -> None:
    result = elm("tokenize", *options, "--views", "ten-crop", "--payload", "probabilities")
    assert result.code == 0, result
    manifest = load_manifest(tmp_path / "shards")
    assert (manifest.views, manifest.payload) == ("ten-crop", "probabilities")
    assert (manifest.samples("train"), manifest.samples("validation")) == (400, 8)
    sheet = ["--tokenizer", str(tmp_path / "tokenizer"), "--out", str(tmp_path / "sheet.png")]
    assert elm("inspect", str(tmp_path / "shards"), *sheet).code == 0
    assert (tmp_path / "sheet.png").exists()


def test_broken_images_stop_it_unless_they_are_allowed(options: list[str], tmp_path: Path) -> None:
    next((tmp_path / "images" / "train" / "coffee").iterdir()).write_bytes(b"")
    said = refused("tokenize", *options)
    assert "1 of 48 images cannot be read, such as train/coffee/" in said
    assert "but at most 0 may be left out" in said
    assert elm("tokenize", *options, "--max-broken", "0.03").code == 0
    assert load_manifest(tmp_path / "shards").samples("train") == 39

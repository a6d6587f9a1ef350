from pathlib import Path

import pytest
from photographs import write_tiles

from elm_dist.checkpoint.tokenizer import save_tokenizer
from elm_dist.config_file import load_config
from elm_dist.launch.tokenize import tokenize_images
from elm_dist.tokenizers.bae import BAE

TINY = Path(__file__).parent / "tiny.yaml"


@pytest.fixture(scope="session")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tokenizer` (its weights as they were drawn) and `shards` of real images; never write to it."""
    directory = tmp_path_factory.mktemp("tokenized")
    images = write_tiles(directory / "images", train=40, validation=8)
    config = load_config(TINY).tokenizer
    save_tokenizer(directory / "tokenizer", BAE(config), config)
    tokenize_images(images, directory / "tokenizer", directory / "shards", batch_size=16, seed=0, flip=False)
    return directory

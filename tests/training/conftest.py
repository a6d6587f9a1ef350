from pathlib import Path

import pytest
from trained_run import tokenize_tiles


@pytest.fixture(scope="session")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `tokenizer` and `shards` of real images; never write to it."""
    return tokenize_tiles(tmp_path_factory.mktemp("tokenized"))

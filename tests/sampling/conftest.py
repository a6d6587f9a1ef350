from pathlib import Path

import pytest
from trained_run import train_tiny_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with checkpoints of steps 3 and 6; never write to it."""
    return train_tiny_run(tmp_path_factory.mktemp("trained"))

"""One builder for all tests of csrc/."""

import pytest
from toolchain import Builder


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("csrc"))

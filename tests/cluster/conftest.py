"""One real SLURM for all tests of this folder that are marked `slurm`, or the reason why there is none."""

import os
from collections.abc import Iterator

import pytest
from slurm_cluster import SlurmCluster, why_not


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Four nodes of eight GPUs, as many as the largest job of `cluster/` asks for."""
    if reason := why_not():
        # Where SLURM was just installed, what it tests must not be passed over.
        (pytest.fail if os.environ.get("ELM_REQUIRE_SLURM") else pytest.skip)(reason)
    with SlurmCluster(tmp_path_factory.mktemp("cluster"), nodes=4) as running:
        yield running

"""Configurations and clusters for the tests of the planner."""

from pathlib import Path

from elm_dist.config import Config
from elm_dist.config_file import load_config
from elm_dist.planning.hardware import Cluster, find_fabric, find_gpu

CONFIGS = Path(__file__).parent.parent.parent / "configs"


def size(name: str, *overrides: str) -> Config:
    return load_config(CONFIGS / f"elm_{name}.yaml", list(overrides))


def cluster(nodes: int = 1, gpu: str = "a100-80gb", fabric: str = "ib-hdr200", gpus_per_node: int = 8) -> Cluster:
    return Cluster(nodes, gpus_per_node, find_gpu(gpu), find_fabric(fabric))

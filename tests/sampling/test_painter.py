import pytest
import torch

from elm_dist.config import SamplingConfig
from elm_dist.errors import ConfigError
from elm_dist.sampling.painter import check_acceleration

CPU = torch.device("cpu")


def test_cuda_graphs_need_a_gpu() -> None:
    message = (
        "sampling.cuda_graphs=true records the work of a GPU, and this computes on the CPU; set sampling.cuda_graphs"
    )
    with pytest.raises(ConfigError, match=message):
        check_acceleration(SamplingConfig(cuda_graphs=True), CPU)
    check_acceleration(SamplingConfig(cuda_graphs=True), torch.device("cuda"))


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"sampling.compile=true needs a C\+\+ compiler"):
        check_acceleration(SamplingConfig(compile=True), CPU)
    check_acceleration(SamplingConfig(), CPU)

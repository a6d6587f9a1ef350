"""What is chosen, what is refused and why, and that only NVIDIA's apex passes for apex."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from elm_dist.config import Config
from elm_dist.config_file import load_config
from elm_dist.errors import ConfigError
from elm_dist.model.attention import missing_flash_attention
from elm_dist.model.kernels import Kernels, choose_kernels, missing_apex

TINY = Path(__file__).parent.parent / "tiny_run.yaml"
CPU, GPU = torch.device("cpu"), torch.device("cuda")
BF16 = ["parallel.device=auto", "parallel.precision=bf16"]


def tiny(*overrides: str) -> Config:
    return load_config(TINY, list(overrides))


def refuse(device: torch.device, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        choose_kernels(tiny("parallel.device=auto", *overrides), device)
    return str(caught.value)


def test_a_cpu_gets_pytorch_s_own() -> None:
    kernels = choose_kernels(tiny(), CPU)
    assert kernels == Kernels("sdpa", "torch", "torch", compile_blocks=False)
    assert str(kernels) == (
        "attention sdpa, norm torch, optimizer torch, blocks not compiled (flash-attn and apex compute on a GPU, and "
        "this run on the CPU)"
    )


def test_what_is_asked_for_is_taken_without_a_reason() -> None:
    asked = ["kernels.attention=reference", "kernels.norm=torch", "kernels.optimizer=torch"]
    kernels = choose_kernels(tiny(*asked, "kernels.compile_blocks=true"), CPU)
    assert str(kernels) == "attention reference, norm torch, optimizer torch, blocks compiled"


@pytest.mark.parametrize("setting", ["attention=flash", "norm=apex", "optimizer=apex"])
def test_a_fused_kernel_is_refused_on_a_cpu(setting: str) -> None:
    part = setting.partition("=")[0]
    plain = "sdpa" if part == "attention" else "torch"
    assert refuse(CPU, *BF16, f"kernels.{setting}") == (
        f"kernels.{setting} cannot work here: flash-attn and apex compute on a GPU, and this run on the CPU; set "
        f"kernels.{part}=auto or ={plain}, or see docs/model.md for how to install the fused kernels"
    )


@pytest.mark.skipif(missing_flash_attention() is None, reason="flash-attn is installed here")
def test_flash_is_refused_where_it_is_not_installed() -> None:
    assert "cannot work here: flash-attn does not import (No" in refuse(GPU, *BF16, "kernels.attention=flash")


@pytest.mark.skipif(missing_apex("norm") is None, reason="NVIDIA's apex is installed here")
@pytest.mark.parametrize("part", ["norm", "optimizer"])
def test_apex_is_refused_where_it_is_not_installed(part: str) -> None:
    assert "cannot work here: apex is not installed" in refuse(GPU, f"kernels.{part}=apex")


def test_auto_says_what_keeps_it_from_the_fused_kernels() -> None:
    wide = ["model.hidden_size=1024", "model.num_heads=2"]
    others = ["kernels.norm=torch", "kernels.optimizer=torch", "parallel.device=auto"]
    assert choose_kernels(tiny(*others), GPU).reasons == ("flash-attn computes in bf16 or fp16, and this run in fp32",)
    assert choose_kernels(tiny(*others, *BF16, *wide), GPU).reasons == (
        "flash-attn takes heads of 256 channels, and the model's have 512",
    )
    others = ["kernels.norm=torch", "kernels.attention=sdpa", "parallel.device=auto"]
    assert choose_kernels(tiny(*others, "optimizer.name=sgd"), GPU).reasons == ("apex has no sgd",)
    assert choose_kernels(tiny(*others, "parallel.zero_stage=3"), GPU).reasons == (
        "apex counts the updates of a whole group of weights, and ZeRO 3 steps groups in parts",
    )

    assert choose_kernels(tiny(*others, "parallel.offload=[optimizer]"), GPU).reasons == (
        "apex computes on a GPU, and parallel.offload keeps the optimizer's state in main memory",
    )


def test_compiled_blocks_need_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert refuse(CPU, "kernels.compile_blocks=true") == (
        "kernels.compile_blocks=true needs a C++ compiler, and there is no no-such-compiler on PATH; install one, name "
        "it in the environment variable CXX, or set kernels.compile_blocks=false"
    )


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that Python imports from, forgotten with what was imported from it."""
    if "apex" in sys.modules:
        pytest.skip("apex is imported already")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "apex"]:
        del sys.modules[name]


@pytest.mark.parametrize("part", ["norm", "optimizer"])
def test_the_web_toolkit_of_the_same_name_does_not_pass_for_apex(part: str, packages: Path) -> None:
    """The files that PyPI's apex 0.9.10dev has; they are not even imported."""
    for file in ["apex/__init__.py", "apex/models.py", "apex/views.py", "apex/lib/__init__.py", "apex/lib/flash.py"]:
        (packages / file).parent.mkdir(parents=True, exist_ok=True)
        (packages / file).write_text("from pyramid_mailer.interfaces import IMailer\n")
    assert missing_apex(part) == (
        f"the apex in {packages}/apex/__init__.py is not NVIDIA's, whose has apex."
        f"{'normalization' if part == 'norm' else 'optimizers'} (PyPI's is a web toolkit)"
    )
    assert "apex" not in sys.modules


def test_apex_without_its_cuda_extension_does_not_pass(packages: Path) -> None:
    """As NVIDIA's is after a plain `pip install`: everything in Python is there."""
    (packages / "apex" / "normalization").mkdir(parents=True)
    (packages / "apex" / "__init__.py").touch()
    (packages / "apex" / "normalization" / "__init__.py").write_text("class FusedRMSNorm: ...\n")
    assert missing_apex("norm") == (
        f"the apex in {packages}/apex/__init__.py was built without its CUDA extension fused_layer_norm_cuda (No "
        "module named 'fused_layer_norm_cuda')"
    )

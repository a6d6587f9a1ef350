"""Which kernels compute attention, norms and the optimizer's updates: what is asked for, or the best that works here.

Knows what is installed, and computes nothing. Kernels of one part differ by rounding alone (bounds: docs/model.md).
"""

import importlib
import os
import shutil
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from importlib.util import find_spec

import torch

from elm_dist.config import Config
from elm_dist.errors import ConfigError
from elm_dist.model.attention import missing_flash_attention

LARGEST_FLASH_HEAD = 256  # channels, of flash-attn 2
# What apex has for a part: a module, a class in it, and the compiled extension that the class calls.
APEX = {
    "norm": ("normalization", "FusedRMSNorm", "fused_layer_norm_cuda"),
    "optimizer": ("optimizers", "FusedAdam", "amp_C"),
}


@dataclass(frozen=True)
class Kernels:
    """The kernels of a run. By default PyTorch's own, which work everywhere."""

    attention: str = "sdpa"  # of `attention.ATTENTION`
    norm: str = "torch"  # of `layers.RMS_NORM`
    optimizer: str = "torch"  # or "apex"
    compile_blocks: bool = False
    reasons: tuple[str, ...] = field(default=(), compare=False)  # why `auto` did not take a faster one

    def __str__(self) -> str:
        compiled = "compiled" if self.compile_blocks else "not compiled"
        reasons = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        parts = f"attention {self.attention}, norm {self.norm}, optimizer {self.optimizer}, blocks {compiled}"
        return parts + reasons


PLAIN = Kernels()


def choose_kernels(config: Config, device: torch.device) -> Kernels:
    """Return the kernels of a run on `device`; ConfigError for one that is asked for and cannot work there."""
    kernels, reasons = config.kernels, []
    chosen = {}
    for part, wanted, fused, plain, problem in (
        ("attention", kernels.attention, "flash", "sdpa", _flash_problem(config, device)),
        ("norm", kernels.norm, "apex", "torch", _apex_problem("norm", device)),
        ("optimizer", kernels.optimizer, "apex", "torch", _optimizer_problem(config, device)),
    ):
        if wanted == fused and problem:
            raise ConfigError(
                f"kernels.{part}={fused} cannot work here: {problem}; set kernels.{part}=auto or ={plain}, or see "
                "docs/model.md for how to install the fused kernels"
            )
        if wanted == "auto" and problem:
            reasons.append(problem)
        chosen[part] = (plain if problem else fused) if wanted == "auto" else wanted
    if kernels.compile_blocks:
        check_compiler("kernels.compile_blocks", device)
    return Kernels(**chosen, compile_blocks=kernels.compile_blocks, reasons=tuple(dict.fromkeys(reasons)))


def missing_apex(part: str) -> str | None:
    """Return why NVIDIA's apex cannot do `part`, "norm" or "optimizer", on this machine; None where it can.

    PyPI has a package of the same name, a web toolkit of 2013: it is told apart by its files, and never imported.
    """
    name, kernel, extension = APEX[part]
    package = find_spec("apex")
    if package is None:
        return "apex is not installed"
    if PathFinder.find_spec(f"apex.{name}", package.submodule_search_locations) is None:
        return f"the apex in {package.origin} is not NVIDIA's, whose has apex.{name} (PyPI's is a web toolkit)"
    try:
        getattr(importlib.import_module(f"apex.{name}"), kernel)
        importlib.import_module(extension)
    except Exception as error:  # whatever a half-built apex raises
        return f"the apex in {package.origin} was built without its CUDA extension {extension} ({error})"
    return None


def _flash_problem(config: Config, device: torch.device) -> str | None:
    if device.type != "cuda":
        return "flash-attn and apex compute on a GPU, and this run on the CPU"
    if config.parallel.precision == "fp32":
        return "flash-attn computes in bf16 or fp16, and this run in fp32"
    if config.model.head_size > LARGEST_FLASH_HEAD:
        return f"flash-attn takes heads of {LARGEST_FLASH_HEAD} channels, and the model's have {config.model.head_size}"
    problem = missing_flash_attention()
    if problem is None and torch.cuda.get_device_capability(device) < (8, 0):
        return "flash-attn wants an Ampere GPU or a newer one"
    return problem


def _apex_problem(part: str, device: torch.device) -> str | None:
    if device.type != "cuda":
        return "flash-attn and apex compute on a GPU, and this run on the CPU"
    return missing_apex(part)


def _optimizer_problem(config: Config, device: torch.device) -> str | None:
    if config.optimizer.name != "adamw":
        return f"apex has no {config.optimizer.name}"
    if config.parallel.zero_stage == 3:
        return "apex counts the updates of a whole group of weights, and ZeRO 3 steps groups in parts"
    if "optimizer" in config.parallel.offload:
        return "apex computes on a GPU, and parallel.offload keeps the optimizer's state in main memory"
    return _apex_problem("optimizer", device)


def check_compiler(setting: str, device: torch.device) -> None:
    """Raise ConfigError, naming the `setting` that asks for torch.compile, unless that has what it compiles with."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"{setting}=true needs a C++ compiler, and there is no {compiler} on PATH; install one, name "
            f"it in the environment variable CXX, or set {setting}=false"
        )
    if device.type == "cuda" and find_spec("triton") is None:
        raise ConfigError(
            f"{setting}=true needs triton on a GPU, and it is not installed; `pip install triton`, or set "
            f"{setting}=false"
        )

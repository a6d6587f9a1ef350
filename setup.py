"""Builds what pyproject.toml cannot describe: the compiled bit-packing extension (C++ and CUDA), where it can be.

It wants torch to build against, a C++ compiler and, for the GPU, a CUDA toolkit. Where one is missing, one line says so
and the installation goes on: plain torch then does the same work. docs/extension.md has the details.
"""

import os
import subprocess
import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

TOOLKIT = ("include/cuda.h", "bin/nvcc")  # what makes a folder a CUDA toolkit; torch's wheels bring the first alone
ARCHITECTURES = "8.0;9.0;10.0+PTX"  # A100, H100, B200, and what comes after; TORCH_CUDA_ARCH_LIST overrides it
# Python 3.11 and torch 2.10, and everything after them.
COMPILE = ["-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-Wno-psabi"]
MACROS = [("Py_LIMITED_API", "0x030B0000"), ("TORCH_TARGET_VERSION", "0x020A000000000000"), ("USE_CUDA", None)]


def say(what: str) -> None:
    print(f"elm-dist: {what}; plain torch does the same work.", file=sys.stderr)


def cuda_home() -> Path | None:
    """Return the folder of the CUDA toolkit: as the environment says, of the `nvcc` on PATH, or of NVIDIA's wheels.

    An `nvcc` on PATH may be a wrapper elsewhere, so it is asked itself.
    """
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    try:
        plan = subprocess.run(["nvcc", "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True).stderr
        candidates += [line.removeprefix("#$ TOP=") for line in plan.splitlines() if line.startswith("#$ TOP=")]
    except OSError:  # no nvcc
        pass
    candidates += [f"{folder}/nvidia/cu13" for folder in sys.path]
    folders = [Path(candidate).resolve() for candidate in candidates if candidate]
    return next((folder for folder in folders if all((folder / file).exists() for file in TOOLKIT)), None)


def gencode_flags() -> list[str]:
    """Return nvcc's flags for TORCH_CUDA_ARCH_LIST, such as "8.0;9.0+PTX"."""
    flags = []
    for name in os.environ.get("TORCH_CUDA_ARCH_LIST", ARCHITECTURES).replace(" ", ";").split(";"):
        number = name.removesuffix("+PTX").replace(".", "")
        kinds = ("sm", "compute") if name.endswith("+PTX") else ("sm",)
        flags += [f"-gencode=arch=compute_{number},code={kind}_{number}" for kind in kinds]
    return flags


class BuildKernels(build_ext):
    """Builds each extension, or says why not and goes on."""

    def build_extension(self, extension: Extension) -> None:
        try:
            if extension.name.endswith("_cuda"):
                extension.extra_objects = [self.compile_kernels()]
            super().build_extension(extension)
        except Exception as error:
            say(f"{extension.name} was not built ({error})")

    def compile_kernels(self) -> str:
        kernels = Path(self.build_temp) / "cuda.o"
        kernels.parent.mkdir(parents=True, exist_ok=True)
        nvcc = [f"{cuda_home()}/bin/nvcc", "-std=c++20", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
        subprocess.run([*nvcc, *gencode_flags(), "-c", "csrc/cuda.cu", "-o", str(kernels)], check=True)
        return str(kernels)


def extensions() -> list[Extension]:
    """Return what this machine is equipped to build."""
    try:
        import torch
        from torch.utils.cpp_extension import include_paths, library_paths
    except ImportError:
        say("the extension was not built, as torch is not there to build against (pip install --no-build-isolation)")
        return []

    def extension(name: str, sources: list[str], libraries: list[str], toolkit: Path | None = None) -> Extension:
        return Extension(
            f"elm_dist.codes.{name}",
            sources,
            include_dirs=[*include_paths(), *([str(toolkit / "include")] if toolkit else [])],
            library_dirs=[*library_paths(), *(str(toolkit / lib) for lib in ("lib64", "lib") if toolkit)],
            libraries=["c10", "torch_cpu", *libraries],
            define_macros=MACROS,
            extra_compile_args=COMPILE,
            depends=glob("csrc/*"),
            language="c++",
            py_limited_api=True,
            optional=True,
        )

    found = [extension("_C", sorted(glob("csrc/cpu*.cpp")), [])]
    wish = os.environ.get("ELM_CUDA", "auto")
    if wish == "1" or (wish == "auto" and torch.version.cuda):
        toolkit = cuda_home()
        if toolkit is None:
            say("the GPU's part of the extension was not built, as there is no CUDA toolkit (nvcc)")
        else:
            libraries = ["torch_cuda", "cudart_static", "dl", "rt", "pthread"]
            found.append(extension("_C_cuda", ["csrc/cuda_binding.cpp"], libraries, toolkit))
    return found


if __name__ == "__main__":
    setup(
        ext_modules=extensions(),
        cmdclass={"build_ext": BuildKernels},
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )

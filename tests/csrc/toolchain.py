"""Compilers of this machine, and what the tests of csrc/ build with them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
CASES = Path(__file__).with_name("cases.cpp")

WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
# gcc 12 sees uninitialized registers in its own intrinsics; `int < sizeof` is fine where both are small.
UNWARRANTED = ["-Wno-maybe-uninitialized", "-Wno-uninitialized", "-Wno-sign-compare"]
COMPILE = ["g++", "-std=c++20", "-O1", *WARNINGS, *UNWARRANTED]

# Where kernels run: on the CPU as they are, or the CUDA kernels on the CPU.
KERNELS = {"cpu": ["cpu.cpp", "cpu_scalar.cpp", "cpu_avx2.cpp", "cpu_avx512.cpp"], "shim": ["cuda.cu"]}
FLAGS = {"cpu": ["-DELM_CASES_CPU"], "shim": [f"-I{Path(__file__).with_name('shim')}"]}
SANITIZERS = {
    "none": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
NO_SUCH_INSTRUCTIONS = 77  # exit code of the cases


def find_tool(name: str) -> str | None:
    """Return the path of a CUDA tool: on PATH, or in NVIDIA's wheels (the extra `cuda-check`)."""
    wheels = [Path(folder) / "nvidia" / "cu13" / "bin" for folder in sys.path]
    return shutil.which(name) or next((found for folder in wheels if (found := shutil.which(name, path=folder))), None)


def skip_without(sanitizer: str) -> None:
    """Skip the test where there is no g++, or none with this sanitizer."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    if not has_sanitizer(sanitizer):
        pytest.skip(f"g++ has no {sanitizer} sanitizer")


@cache
def has_sanitizer(sanitizer: str) -> bool:
    command = ["g++", *SANITIZERS[sanitizer], "-x", "c++", "-", "-o", "/dev/null"]
    return subprocess.run(command, input=b"int main() { return 0; }", capture_output=True).returncode == 0


def run(command: Sequence[str | Path]) -> str:
    """Run a command that must succeed; return what it wrote."""
    report = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert report.returncode == 0, f"{' '.join(map(str, command))}\n{report.stdout}"
    return report.stdout


def load_setup() -> ModuleType:
    """Import setup.py, which sets nothing up when it is imported."""
    spec = spec_from_file_location("setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_object(source: Path, folder: Path, kind: str, sanitizer: str, csrc: Path = CSRC) -> Path:
    target = folder / f"{source.stem}.o"
    flags = [*FLAGS[kind], *SANITIZERS[sanitizer], f"-I{csrc}"]
    run([*COMPILE, *flags, "-x", "c++", "-c", source, "-o", target])
    return target


class Builder:
    """Builds the cases for kernels of a kind with a sanitizer, every object once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def objects(self, kind: str, sanitizer: str) -> dict[str, Path]:
        """Return the objects by the names of their sources. Only kernels are sanitized: the cases take too long so."""
        sources = [(CASES, "none"), *((CSRC / name, sanitizer) for name in KERNELS[kind])]
        return {source.name: self._object(source, kind, wish) for source, wish in sources}

    def program(self, kind: str, sanitizer: str) -> Path:
        program = self.folder / f"cases_{kind}_{sanitizer}"
        return program if program.exists() else link(program, self.objects(kind, sanitizer), sanitizer)

    def _object(self, source: Path, kind: str, sanitizer: str) -> Path:
        folder = self.folder / f"{kind}_{sanitizer}"
        folder.mkdir(exist_ok=True)
        target = folder / f"{source.stem}.o"
        return target if target.exists() else compile_object(source, folder, kind, sanitizer)


def run_cases(program: Path, level: str, sanitizer: str) -> "subprocess.CompletedProcess[str]":
    """Run the cases; skip the test where the processor has no such level. What is wrong is in the exit code."""
    parts = ["threads"] if sanitizer == "thread" else []
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    report = subprocess.run([program, level, *parts], env=environment, capture_output=True, text=True)
    if report.returncode == NO_SUCH_INSTRUCTIONS:
        pytest.skip(report.stdout.strip())
    return report


def link(program: Path, objects: dict[str, Path], sanitizer: str) -> Path:
    run(["g++", *SANITIZERS[sanitizer], *objects.values(), "-pthread", "-o", program])
    return program

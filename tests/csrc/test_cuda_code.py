"""What nvcc makes of csrc/cuda.cu, which needs no GPU: it compiles, spills nothing and moves 16 bytes at a time."""

import re
import shutil
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest
from toolchain import CSRC, find_tool, load_setup, run
from torch.utils.cpp_extension import include_paths

ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]  # A100, H100, B200
MOVES = {  # of 16 bytes; the other side of a job moves a few bits at a time
    "PackBits": {"load"},
    "UnpackSubtokens": {"store"},
    "SubtokensToBits": {"store"},
    "EmbedPacked": {"load", "store"},
}
MOST_REGISTERS = 64  # 4 blocks of 256 threads fill an SM's 65,536 registers


class Compiled(NamedTuple):
    cubin: Path
    ptx: str
    report: str  # of ptxas, kernel by kernel


def nvcc() -> str:
    found = find_tool("nvcc")
    if found is None:
        pytest.skip("there is no nvcc")
    return found


@pytest.fixture(scope="module", params=ARCHITECTURES)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder = tmp_path_factory.mktemp(request.param)
    flags = ["-std=c++20", "-O3", f"-arch={request.param}", "-cubin", "--keep", "--keep-dir", folder]
    report = run([nvcc(), *flags, "-Xptxas", "-v", CSRC / "cuda.cu", "-o", folder / "cuda.cubin"])
    return Compiled(folder / "cuda.cubin", (folder / "cuda.ptx").read_text(), report)


def split_by_kernel(text: str, heading: str) -> dict[str, str]:
    """Return the text of each kernel by its mangled name, which the regular expression `heading` finds."""
    parts = re.split(heading, text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_no_kernel_spills_or_takes_too_many_registers(compiled: Compiled) -> None:
    kernels = split_by_kernel(compiled.report, r"Compiling entry function '(\w+)'")
    assert len(kernels) == 13
    for kernel, report in kernels.items():
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report, kernel
        registers = re.search(r"Used (\d+) registers", report)
        assert registers is not None
        assert int(registers[1]) <= MOST_REGISTERS, kernel


def test_ptx_moves_16_bytes_at_a_time(compiled: Compiled) -> None:
    kernels = split_by_kernel(compiled.ptx, r"\.entry (\w+)")
    check_moves(kernels, r"\bld\.global\.v(4\.\w32|2\.\w64)", r"\bst\.global\.v(4\.\w32|2\.\w64)")
    assert not re.search(r"^\s*\.local", compiled.ptx, re.MULTILINE), "a kernel keeps an array in local memory"


def test_machine_code_moves_16_bytes_at_a_time(compiled: Compiled) -> None:
    cuobjdump = find_tool("cuobjdump")
    if cuobjdump is None:
        pytest.skip("there is no cuobjdump: pip install elm-dist[cuda-check]")
    kernels = split_by_kernel(run([cuobjdump, "-sass", compiled.cubin]), r"Function : (\w+)")
    check_moves(kernels, r"\bLDG\.E\.128\b", r"\bSTG\.E\.128\b")
    assert not re.search(r"\b(LDL|STL)\b", "".join(kernels.values())), "a kernel uses local memory"


def check_moves(kernels: dict[str, str], load: str, store: str) -> None:
    """Check that each kernel loads, or stores, or both, with the instruction that moves 16 bytes."""
    assert len(kernels) == 13
    for kernel, code in kernels.items():
        job = next(job for job in MOVES if job in kernel)
        found = {name for name, pattern in (("load", load), ("store", store)) if re.search(pattern, code)}
        assert found == MOVES[job], kernel


def test_the_binding_compiles_for_cuda() -> None:
    """Against torch's headers, which are the same with and without CUDA, and the toolkit's."""
    toolkit = load_setup().cuda_home()
    if toolkit is None or shutil.which("g++") is None:
        pytest.skip("there is no CUDA toolkit or no g++")
    includes = [*include_paths(), toolkit / "include", sysconfig.get_path("include")]
    macros = ["-DUSE_CUDA", "-DPy_LIMITED_API=0x030B0000", "-DTORCH_TARGET_VERSION=0x020A000000000000"]
    run(["g++", "-std=c++20", "-fsyntax-only", *macros, *(f"-I{path}" for path in includes), CSRC / "cuda_binding.cpp"])

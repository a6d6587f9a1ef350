"""The kernels of csrc/ against the specification, on every machine with a compiler: see cases.cpp for what is compared.

The CUDA source runs here on the CPU, and the same cases run on a GPU where there is one.
"""

from pathlib import Path

import pytest
from toolchain import CASES, CSRC, Builder, find_tool, run, run_cases, skip_without

LEVELS = {"scalar": "0", "AVX2": "1", "AVX512": "2"}


@pytest.mark.parametrize("sanitizer", ["none", "address", pytest.param("thread", marks=pytest.mark.slow)])
@pytest.mark.parametrize("level", LEVELS)
def test_cpu_kernels_follow_the_specification(builder: Builder, level: str, sanitizer: str) -> None:
    skip_without(sanitizer)
    report = run_cases(builder.program("cpu", sanitizer), LEVELS[level], sanitizer)
    assert report.returncode == 0, report.stdout + report.stderr


@pytest.mark.parametrize("sanitizer", ["none", "address", "thread"])
def test_cuda_kernels_follow_the_specification_on_the_cpu(builder: Builder, sanitizer: str) -> None:
    skip_without(sanitizer)
    report = run_cases(builder.program("shim", sanitizer), "0", sanitizer)
    assert report.returncode == 0, report.stdout + report.stderr


@pytest.mark.gpu
def test_cuda_kernels_follow_the_specification_on_a_gpu(tmp_path: Path) -> None:
    nvcc = find_tool("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc")
    program = tmp_path / "cases"
    flags = ["-std=c++20", "-arch=native", "-DELM_CASES_GPU", f"-I{CSRC}"]
    run([nvcc, *flags, "-x", "cu", CASES, CSRC / "cuda.cu", "-o", program])
    assert run([program]).endswith("cases\n")

"""Do the cases notice when a kernel is wrong? Each mutant is a bug that was put in on purpose, and must be caught.

Some bugs leave the results right, such as reading too far; these only a sanitizer sees.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from toolchain import CSRC, KERNELS, Builder, compile_object, link, run_cases, skip_without


class Mutant(NamedTuple):
    bug: str
    file: str
    right: str
    wrong: str
    sanitizer: str = "none"  # what it takes to see it
    level: str = "0"  # of the CPU kernels


CUDA = [
    Mutant("misaligned load", "cuda.cu", "count == kCount && is_aligned(from)", "count == kCount", "address"),
    Mutant("stores past the tail", "cuda.cu", "count == kCount && is_aligned(to)", "is_aligned(to)"),
    Mutant("second byte without need", "cuda.cu", "if (tile.size > 8) packed[1]", "packed[1]"),
    Mutant("rows not rounded up", "cuda.cu", "tile.row * bytes_of(job.bits)", "tile.row * (job.bits / 8)"),
    Mutant("one thread too many", "cuda.cu", "index < tiles.count", "index <= tiles.count"),
    Mutant("32-bit thread", "cuda.cu", "const int64_t index = int64_t{blockIdx.x}", "const int index = blockIdx.x"),
    Mutant("field forgets its start", "contract.h", "skip(bit % 8)", "skip(0)"),
    Mutant("draws at probability 0", "contract.h", "0x1p-24f < probability", "0x1p-24f <= probability"),
]

MORE_CUDA = [
    Mutant("loads past the tail", "cuda.cu", "count == kCount && is_aligned(from)", "is_aligned(from)", "address"),
    Mutant("misaligned store", "cuda.cu", "count == kCount && is_aligned(to)", "count == kCount", "address"),
    Mutant("no second byte", "cuda.cu", "if (tile.size > 8) packed[1]", "if (tile.size > 9) packed[1]"),
    Mutant("rows without what is left over", "cuda.cu", "tile.row * job.row_bytes", "tile.row * (job.row_bytes - 1)"),
    Mutant("spread changes id too early", "cuda.cu", "shift-- == 0", "shift-- == 1"),
    Mutant("first table for all", "cuda.cu", "static_cast<int>(tile.row - code * job.subtokens)", "0"),
    Mutant("positions of the first row", "cuda.cu", "position = code - row * job.positions", "position = code"),
    Mutant("least significant first", "contract.h", "is_positive(values[i]) << (7 - i)", "is_positive(values[i]) << i"),
    Mutant("32-bit offset", "contract.h", "(index - row * per_row) * size", "int((index - row * per_row) * size)"),
    Mutant("field forgets its place", "contract.h", "skip = (skip + take) % 8", "skip = 0"),
    Mutant("another mask token", "contract.h", "? uint64_t{1} << job.width :", "? (uint64_t{1} << job.width) - 1 :"),
    Mutant("ties round up", "contract.h", "0x7fff + (bits >> 16 & 1)", "0x8000"),
    Mutant("NaN rounded like a number", "contract.h", "value == value ?", "true ?"),
    Mutant("one round too few", "contract.h", "round < 10", "round < 9"),
    Mutant("same words twice", "contract.h", "group + 1, sample", "group, sample"),
    Mutant("255ths drawn in 256ths", "contract.h", "* 255 < uint64_t{probability}", "* 256 < uint64_t{probability}"),
]

# 8 fields of the next tile too, where there are any: the results are right, and two threads write them.
OVERLAPPING = "tile.size + 8 * (tile.first + tile.size < job.fields)"

CPU = [
    Mutant("tiles of odd length", "cpu.cpp", "job.fields, 1 << 13", "job.fields, (1 << 13) + 1"),
    Mutant("tiles overlap", "cpu.cpp", "unpack(packed, tile.size,", f"unpack(packed, {OVERLAPPING},", "thread"),
    Mutant("word past the end", "cpu_scalar.cpp", "* width) - 8", "* width) - 7", "address"),
    Mutant("field wider than a word", "cpu_scalar.cpp", "width <= 57", "width <= 64"),
    Mutant("AVX2 reads too far", "cpu_avx2.cpp", ">= half + 16", ">= width", "address", "1"),
    Mutant("AVX2 lane too narrow", "cpu_avx2.cpp", "width <= 25", "width <= 27", level="1"),
    Mutant("AVX2 spills past the end", "cpu_avx2.cpp", ">= 16 * pieces", ">= width", level="1"),
    Mutant("AVX2 packs NaN as positive", "cpu_avx2.cpp", "epi16(0x7f80)", "epi16(0x7fff)", level="1"),
    Mutant("AVX512 reads half", "cpu_avx512.cpp", "64 - 2 * width", "64 - width", level="2"),
    Mutant("AVX512 lane too narrow", "cpu_avx512.cpp", "width <= 25", "width <= 27", level="2"),
    Mutant("AVX512 spills past the end", "cpu_avx512.cpp", ">= 64 * kPieces", ">= 8 * width", level="2"),
    Mutant("AVX512 packs backwards", "cpu_avx512.cpp", "7, 6, 5, 4, 3, 2, 1, 0,", "0, 1, 2, 3, 4, 5, 6, 7,", level="2"),
    Mutant("NaN summed like a number", "cpu_sum.h", "floats == floats ?", "floats != floats ?", level="2"),
]


def check_caught(kind: str, mutant: Mutant, builder: Builder, folder: Path) -> None:
    skip_without(mutant.sanitizer)
    csrc = shutil.copytree(CSRC, folder / "csrc")
    source = (csrc / mutant.file).read_text()
    assert mutant.right in source, "the kernel has changed: update the mutant"
    (csrc / mutant.file).write_text(source.replace(mutant.right, mutant.wrong))
    objects = builder.objects(kind, mutant.sanitizer)
    for name in KERNELS[kind]:
        if name == mutant.file or mutant.file.endswith(".h"):
            objects[name] = compile_object(csrc / name, folder, kind, mutant.sanitizer, csrc)
    program = link(folder / "cases", objects, mutant.sanitizer)
    report = run_cases(program, mutant.level, mutant.sanitizer)
    assert report.returncode != 0, f"nobody noticed: {mutant.bug}"


@pytest.mark.parametrize("mutant", CUDA, ids=lambda mutant: mutant.bug)
def test_a_wrong_cuda_kernel_is_caught(mutant: Mutant, builder: Builder, tmp_path: Path) -> None:
    check_caught("shim", mutant, builder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MORE_CUDA, ids=lambda mutant: mutant.bug)
def test_more_wrong_cuda_kernels_are_caught(mutant: Mutant, builder: Builder, tmp_path: Path) -> None:
    check_caught("shim", mutant, builder, tmp_path)


@pytest.mark.parametrize("mutant", CPU, ids=lambda mutant: mutant.bug)
def test_a_wrong_cpu_kernel_is_caught(mutant: Mutant, builder: Builder, tmp_path: Path) -> None:
    check_caught("cpu", mutant, builder, tmp_path)

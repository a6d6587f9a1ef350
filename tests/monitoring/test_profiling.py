"""Traces of real steps, and memory that really runs out."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from elm_dist.errors import TrainingError
from elm_dist.monitoring.profiling import StepProfiler, out_of_memory_explained


def test_the_steps_of_the_window_are_traced_and_no_others(tmp_path: Path) -> None:
    profiler = StepProfiler(tmp_path / "logs", "rank0", first=2, count=2, device=torch.device("cpu"))
    for step in range(1, 6):
        with profiler.around(step):
            torch.ones(step, step) @ torch.ones(step, step)
    (trace,) = (tmp_path / "logs").iterdir()
    assert trace.name == "rank0_steps_2_to_3.json"
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event.get("name") == "aten::matmul" for event in events) == 2


def test_never(tmp_path: Path) -> None:
    profiler = StepProfiler(tmp_path / "logs", "rank0", first=0, count=3, device=torch.device("cpu"))
    for step in range(1, 4):
        with profiler.around(step):
            pass
    assert not (tmp_path / "logs").exists()


def test_main_memory_that_runs_out_is_explained(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 2**30, hard))
    try:
        with (
            pytest.raises(TrainingError, match=r"^rank 3 is out of memory; set a smaller schedule\.micro_batch_size"),
            out_of_memory_explained(tmp_path, rank=3, has_snapshot=True),
        ):
            torch.empty(2**40, dtype=torch.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_explained(tmp_path, rank=0, has_snapshot=False):
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.gpu
def test_a_gpu_s_memory_that_runs_out_leaves_a_snapshot(tmp_path: Path) -> None:
    run = (
        "import sys, torch; from pathlib import Path; "
        "from elm_dist.monitoring.profiling import out_of_memory_explained\n"
        "with out_of_memory_explained(Path(sys.argv[1]), 0, True): torch.empty(2**45, dtype=torch.uint8, device='cuda')"
    )
    result = subprocess.run([sys.executable, "-c", run, str(tmp_path)], capture_output=True, text=True)
    assert "memory_rank0.pickle shows what took it" in result.stderr
    assert (tmp_path / "memory_rank0.pickle").stat().st_size > 0

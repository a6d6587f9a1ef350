"""What needs GPUs: NCCL between them, fp16 and its loss scale. Skipped where there are none, with the reason."""

from pathlib import Path

import pytest
import torch
from curves import largest_relative_difference, train_groups

pytestmark = pytest.mark.gpu

CUDA = ["parallel.device=cuda", "optimizer.gradient_clipping=1"]
STEPS = 10


def test_a_gpu_follows_the_curve_of_the_cpu(tmp_path: Path) -> None:
    cpu = train_groups(tmp_path / "cpu", [(1, {"one": ["model.dropout=0"]})], STEPS)("one")
    cases = {"fp32": ["parallel.precision=fp32"], "bf16": ["parallel.precision=bf16"]}
    settings = {name: [*CUDA, "model.dropout=0", *precision] for name, precision in cases.items()}
    run = train_groups(tmp_path / "cuda", [(1, settings)], STEPS, device="cuda")
    assert largest_relative_difference(cpu.losses, run("fp32").losses) < 1e-4
    assert largest_relative_difference(cpu.losses, run("bf16").losses) < 2e-2


def test_fp16_scales_its_loss_and_learns(tmp_path: Path) -> None:
    # The first scale, 2 ** 16, may overflow: such a step updates nothing and reports no norm.
    run = train_groups(tmp_path, [(1, {"fp16": [*CUDA, "parallel.precision=fp16"]})], 40, device="cuda")("fp16")
    norms = [norm for norm in run.facts[0]["norms"] if norm is not None]
    assert len(norms) > 20
    assert all(norm < 100 for norm in norms)
    assert run.losses[-1] < run.losses[0]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
@pytest.mark.parametrize("schedule", ["1f1b", "dualpipev", "zbv"])
def test_stages_over_nccl_follow_the_curve_of_one_gpu(tmp_path: Path, schedule: str) -> None:
    stages = ["parallel.pipeline_stages=2", f"parallel.schedule={schedule}"]
    one = train_groups(tmp_path / "one", [(1, {"one": CUDA})], STEPS, device="cuda")("one")
    two = train_groups(tmp_path / "two", [(2, {"two": CUDA + stages})], STEPS, device="cuda")("two")
    assert largest_relative_difference(one.losses, two.losses) < 1e-6


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_replicas_over_nccl_follow_the_curve_of_one_gpu(tmp_path: Path, zero_stage: int) -> None:
    zero = [*CUDA, f"parallel.zero_stage={zero_stage}"]
    one = train_groups(tmp_path / "one", [(1, {"one": CUDA})], STEPS, device="cuda")("one")
    two = train_groups(tmp_path / "two", [(2, {"two": zero})], STEPS, device="cuda")("two")
    assert largest_relative_difference(one.losses, two.losses) < 1e-5

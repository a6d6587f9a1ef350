"""Real processes over gloo, on random codes with every dropout on: any layout trains the same curve."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from processes import WORKERS, run_processes
from safetensors.torch import load_file
from torch import Tensor

STEPS = 20
SGD = ["optimizer.name=sgd", "optimizer.learning_rate=0.5"]
PIPELINE = ["parallel.pipeline_stages=2"]
RECOMPUTE = ["parallel.checkpoint_every_blocks=2"]
BF16 = ["parallel.precision=bf16"]

# Process groups cost seconds to start, so each runs many cases. A pipeline's topology is fixed for a whole process.
GROUPS: list[tuple[int, dict[str, list[str]]]] = [
    (
        1,
        {
            "one_sgd": SGD,
            "one_adamw": [],
            "one_clipped": [*SGD, "optimizer.gradient_clipping=0.1"],
            "one_zero0": ["parallel.zero_stage=0"],
            "one_zero2": ["parallel.zero_stage=2"],
            "one_recomputed": RECOMPUTE,
            "one_bf16": BF16,
        },
    ),
    (
        2,
        {
            "stages_sgd": PIPELINE + SGD,
            "stages_adamw": PIPELINE,
            "stages_clipped": [*PIPELINE, *SGD, "optimizer.gradient_clipping=0.1"],
            "stages_recomputed": PIPELINE + RECOMPUTE,
            "stages_bf16": PIPELINE + BF16,
        },
    ),
    (
        2,
        {
            "replicas_zero1_sgd": SGD,
            "replicas_zero1_adamw": [],
            "replicas_zero0_sgd": [*SGD, "parallel.zero_stage=0"],
            "replicas_zero2_sgd": [*SGD, "parallel.zero_stage=2"],
            "replicas_zero3_sgd": [*SGD, "parallel.zero_stage=3"],
            "replicas_zero3_adamw": ["parallel.zero_stage=3"],
        },
    ),
]


class Run(NamedTuple):
    facts: list[dict[str, Any]]  # of each rank
    tensors: dict[str, Tensor]  # "kind/canonical name", of all ranks together

    @property
    def losses(self) -> list[list[float]]:
        return self.facts[0]["losses"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    out = tmp_path_factory.mktemp("layouts")
    ranks = {}
    for world_size, cases in GROUPS:
        listed = [{"name": name, "overrides": overrides, "steps": STEPS} for name, overrides in cases.items()]
        run_processes(world_size, [str(WORKERS / "layout_worker.py"), str(out), json.dumps(listed)])
        ranks |= dict.fromkeys(cases, world_size)
    return lambda name: read_run(out, name, ranks[name])


def read_run(out: Path, name: str, world_size: int) -> Run:
    facts = [json.loads((out / f"{name}.rank{rank}.json").read_text()) for rank in range(world_size)]
    tensors: dict[str, Tensor] = {}
    for rank in range(world_size):
        tensors |= load_file(out / f"{name}.rank{rank}.safetensors")
    return Run(facts, tensors)


def largest_relative_difference(one: list[list[float]], two: list[list[float]]) -> float:
    return max(abs(a - b) / abs(a) for heads in zip(one, two, strict=True) for a, b in zip(*heads, strict=True))


@pytest.mark.parametrize("case", ["sgd", "adamw", "recomputed"])
def test_pipeline_stages_are_bit_equal_to_one_process(run: Callable[[str], Run], case: str) -> None:
    one, stages = run(f"one_{case}"), run(f"stages_{case}")
    assert stages.losses == one.losses
    assert [fact["validation"] for fact in stages.facts] == [one.facts[0]["validation"]] * 2
    assert stages.tensors.keys() == one.tensors.keys()
    unequal = [name for name, tensor in one.tensors.items() if not torch.equal(stages.tensors[name], tensor)]
    assert not unequal


def test_pipeline_stages_are_bit_equal_in_bf16(run: Callable[[str], Run]) -> None:
    one, stages = run("one_bf16"), run("stages_bf16")
    assert stages.losses == one.losses
    assert all(torch.equal(stages.tensors[name], tensor) for name, tensor in one.tensors.items())


def test_pipeline_stages_clip_by_the_norm_of_the_whole_model(run: Callable[[str], Run]) -> None:
    one, stages = run("one_clipped"), run("stages_clipped")
    assert max(one.facts[0]["norms"]) > 0.1  # so clipping does something
    assert stages.facts[0]["norms"] == pytest.approx(one.facts[0]["norms"], rel=1e-6)
    assert largest_relative_difference(one.losses, stages.losses) < 1e-6


@pytest.mark.parametrize("zero", ["zero0", "zero1", "zero2", "zero3"])
def test_replicas_are_within_1e_6_of_one_process(run: Callable[[str], Run], zero: str) -> None:
    one, replicas = run("one_sgd"), run(f"replicas_{zero}_sgd")
    assert largest_relative_difference(one.losses, replicas.losses) < 1e-6
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(replicas.tensors[name], tensor, rtol=1e-6, atol=1e-6)
    if zero != "zero0":  # where DeepSpeed computes no norm
        # At the first step the weights are still the same; later norms carry what rounding did to the weights.
        assert replicas.facts[0]["norms"][0] == pytest.approx(one.facts[0]["norms"][0], rel=1e-6)
        assert replicas.facts[0]["norms"] == pytest.approx(one.facts[0]["norms"], rel=1e-5)


@pytest.mark.parametrize("zero", ["zero1", "zero3"])
def test_replicas_with_adamw_keep_the_curve(run: Callable[[str], Run], zero: str) -> None:
    assert largest_relative_difference(run("one_adamw").losses, run(f"replicas_{zero}_adamw").losses) < 1e-6


@pytest.mark.parametrize("case", ["one_zero0", "one_zero2", "one_recomputed"])
def test_one_process_is_the_same_with_any_zero_and_recomputation(run: Callable[[str], Run], case: str) -> None:
    expected, found = run("one_adamw"), run(case)
    assert found.losses == expected.losses
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())


def test_bf16_stays_near_fp32(run: Callable[[str], Run]) -> None:
    assert largest_relative_difference(run("one_adamw").losses, run("one_bf16").losses) < 2e-2


@pytest.mark.parametrize("case", ["stages_adamw", "replicas_zero1_adamw", "replicas_zero3_adamw"])
def test_all_ranks_report_the_same(run: Callable[[str], Run], case: str) -> None:
    first, second = run(case).facts
    assert first == second


def test_the_average_follows_the_weights(run: Callable[[str], Run]) -> None:
    """With decay 0.9 and 20 steps the average is near the weights, and not the same."""
    tensors = run("replicas_zero1_sgd").tensors
    distances = {
        name: (tensors[f"ema/{name.removeprefix('weights/')}"] - weight).norm()
        for name, weight in tensors.items()
        if name.startswith("weights/")
    }
    assert all(0 < distance < 2 for distance in distances.values())

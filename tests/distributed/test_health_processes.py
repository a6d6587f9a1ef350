"""What two processes do about a loss that is not a number on one of them, and about a bit that flips on one of them."""

import json
from pathlib import Path

import pytest
from processes import WORKERS, run_processes

CASES = {
    "zero_0": ["parallel.zero_stage=0"],
    "zero_1": [],
    "zero_1_bf16": ["parallel.precision=bf16"],
    "zero_2": ["parallel.zero_stage=2"],
    "zero_3": ["parallel.zero_stage=3"],
    "zero_3_bf16": ["parallel.zero_stage=3", "parallel.precision=bf16"],
    "stages": ["parallel.pipeline_stages=2"],
    "stages_bf16": ["parallel.pipeline_stages=2", "parallel.precision=bf16"],
    "stages_zbv": ["parallel.pipeline_stages=2", "parallel.schedule=zbv"],
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, list]]]:
    """What each rank saw of each case."""
    out: Path = tmp_path_factory.mktemp("health")
    cases = [{"name": name, "overrides": overrides} for name, overrides in CASES.items()]
    run_processes(2, [str(WORKERS / "health_worker.py"), str(out), json.dumps(cases)])
    return {name: [json.loads((out / f"{name}.rank{rank}.json").read_text()) for rank in range(2)] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_all_ranks_skip_the_step_and_no_weight_changes(seen: dict[str, list[dict[str, list]]], name: str) -> None:
    for rank in range(2):
        assert seen[name][rank]["skipped"] == [False, True, False, False]
        assert seen[name][rank]["unchanged"] == [False, True, False, False]


@pytest.mark.parametrize("name", CASES)
def test_a_flipped_bit_is_found_where_there_are_replicas(seen: dict[str, list[dict[str, list]]], name: str) -> None:
    is_replicated = "stages" not in name and "zero_3" not in name
    for rank in range(2):
        assert seen[name][rank]["divergence"] == [[], [0, 1] if is_replicated else []]


@pytest.mark.parametrize("name", CASES)
def test_ranks_time_their_forward_passes_and_tell_each_other(seen: dict[str, list[dict[str, list]]], name: str) -> None:
    for rank in range(2):
        assert min(seen[name][rank]["forward_seconds"]) > 0
        assert seen[name][rank]["gathered"] == [10.0, 11.0]

"""What the planner says that DeepSpeed holds for each parameter, counted in real engines of two processes."""

import json
from pathlib import Path

import pytest
from processes import WORKERS, run_processes

from elm_dist.config_file import load_config
from elm_dist.planning.memory import BUCKET, state_bytes, zero_buffers

WIDE = "model.hidden_size=256"  # the state is most of what there is
CASES = {
    "bf16_zero_1": ["parallel.precision=bf16", "parallel.zero_stage=1"],
    "bf16_zero_2": ["parallel.precision=bf16", "parallel.zero_stage=2"],
    "bf16_zero_3": ["parallel.precision=bf16", "parallel.zero_stage=3"],
}
RARER = {
    "fp32_zero_0": ["parallel.zero_stage=0"],
    "fp32_zero_1": ["parallel.zero_stage=1"],
    "fp32_zero_2": ["parallel.zero_stage=2"],
    "bf16_zero_1_offload": ["parallel.precision=bf16", "parallel.zero_stage=1", "parallel.offload=[optimizer]"],
    "bf16_zero_2_offload": ["parallel.precision=bf16", "parallel.zero_stage=2", "parallel.offload=[optimizer]"],
}


@pytest.mark.parametrize("cases", [CASES, pytest.param(RARER, marks=pytest.mark.slow)], ids=["bf16", "others"])
def test_state_is_as_planned(cases: dict[str, list[str]], tmp_path: Path) -> None:
    arguments = [{"name": name, "overrides": [WIDE, *overrides]} for name, overrides in cases.items()]
    run_processes(2, [str(WORKERS / "state_worker.py"), str(tmp_path), json.dumps(arguments)])
    for name, overrides in cases.items():
        facts = json.loads((tmp_path / f"{name}.json").read_text())
        config = load_config(WORKERS / "tiny.yaml", [WIDE, *overrides])
        buckets = [size for size in facts["sizes"] if size >= BUCKET]
        held = (sum(facts["sizes"]) - sum(buckets)) / facts["parameters"]
        planned = sum(vars(state_bytes(config, 2)).values())
        print(f"{name}: {held:.2f} bytes of a parameter, {planned:.2f} planned; buckets {buckets}")
        assert held == pytest.approx(planned, rel=0.03)
        assert all(bucket == zero_buffers(config, 0, 2).lasting for bucket in buckets)

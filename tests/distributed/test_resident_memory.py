"""What the planner says that a rank holds at its fullest, measured as the growth of real processes on CPUs."""

import json
from pathlib import Path

import pytest
from processes import WORKERS, run_processes

from elm_dist.config import Config
from elm_dist.config_file import load_config
from elm_dist.planning.hardware import Cluster, find_fabric, find_gpu
from elm_dist.planning.memory import WORKSPACE, StageMemory, zero_buffers
from elm_dist.planning.plan import plan_run
from elm_dist.planning.work import element_bytes

SMALL = ["model.num_layers=6", "model.hidden_size=384", "model.num_heads=6", "schedule.global_batch_size=4"]
LARGE = ["model.num_layers=8", "model.hidden_size=512", "model.num_heads=8", "schedule.global_batch_size=8"]
SHAPE = ["model.dropout=0", "tokenizer.image_size=64"]

ONE = {f"one_zero_{zero}": [f"parallel.zero_stage={zero}"] for zero in (0, 1)}
TWO = {f"two_zero_{zero}": [f"parallel.zero_stage={zero}"] for zero in range(4)}
STAGES = {"stages": ["parallel.pipeline_stages=2"]}
BF16 = {f"bf16_{name}": ["parallel.precision=bf16", *TWO[name]] for name in ("two_zero_1", "two_zero_2", "two_zero_3")}
BF16 |= {"bf16_stages": ["parallel.precision=bf16", *STAGES["stages"]]}
FEW = {"two_zero_1": TWO["two_zero_1"], **STAGES}


@pytest.mark.parametrize(
    ("processes", "size", "cases"),
    [
        pytest.param(2, SMALL, FEW, id="small"),
        pytest.param(1, LARGE, ONE, id="one process", marks=pytest.mark.slow),
        pytest.param(2, LARGE, TWO | STAGES, id="two processes", marks=pytest.mark.slow),
        pytest.param(2, LARGE, BF16, id="two processes in bf16", marks=pytest.mark.slow),
    ],
)
def test_processes_grow_as_planned(
    processes: int, size: list[str], cases: dict[str, list[str]], tmp_path: Path
) -> None:
    arguments = [{"name": name, "overrides": [*SHAPE, *size, *overrides]} for name, overrides in cases.items()]
    run_processes(processes, [str(WORKERS / "memory_worker.py"), str(tmp_path), json.dumps(arguments)])
    for case in arguments:
        config = load_config(WORKERS / "tiny.yaml", case["overrides"])
        plan = plan_run(config, Cluster(1, processes, find_gpu("l40s"), find_fabric("ib-hdr200")))
        for rank in range(processes):
            parameters, memory = plan.stages[rank // plan.layout.replicas]
            planned = resident(config, parameters, memory)
            grown = json.loads((tmp_path / f"{case['name']}.rank{rank}.json").read_text())
            print(
                f"{case['name']} rank {rank}: {grown / 1e6:.0f} MB, planned {planned / 1e6:.0f}: {planned / grown:.3f}"
            )
            assert planned == pytest.approx(grown, rel=0.10)


def resident(config: Config, parameters: int, memory: StageMemory) -> float:
    """Return the bytes of a plan that a CPU's process has: no workspace, and of ZeRO's bucket the pages it has written.

    ZeRO 1's gradients move into their bucket; ZeRO 2 and 3 have summed them elsewhere by then.
    """
    allocated = zero_buffers(config, 0, 1).lasting
    written = element_bytes(config.parallel.precision) * parameters if config.parallel.zero_stage >= 2 else 0
    return memory.total - WORKSPACE - allocated + written

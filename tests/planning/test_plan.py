"""A plan adds up: parameters, memory by stage, time, and the sentence that refuses it."""

from pathlib import Path

import pytest
from planned import CONFIGS, cluster, size

from elm_dist.errors import LayoutError
from elm_dist.model.cost import count_parameters
from elm_dist.planning.hardware import GIB
from elm_dist.planning.plan import Plan, check_memory, plan_run


def plan(name: str, *overrides: str, nodes: int = 1, gpu: str = "a100-80gb", fabric: str = "ib-hdr200") -> Plan:
    return plan_run(size(name, *overrides), cluster(nodes, gpu, fabric))


def test_stages_share_the_parameters() -> None:
    for stages in (1, 2, 4, 8):
        for schedule in ("1f1b", "zbv", "dualpipev"):
            overrides = [f"parallel.pipeline_stages={stages}", f"parallel.schedule={schedule}"]
            planned = plan("xl", *overrides, "schedule.micro_batch_size=4")
            assert sum(parameters for parameters, _ in planned.stages) == 741_276_160
            assert len(planned.stages) == stages


def test_the_first_stage_holds_most_and_the_last_the_loss() -> None:
    planned = plan("xl", "parallel.pipeline_stages=4", "schedule.micro_batch_size=4")
    activations = [memory.activations for _, memory in planned.stages]
    assert activations == sorted(activations, reverse=True)
    assert [memory.logits > 0 for _, memory in planned.stages] == [False, False, False, True]
    assert planned.memory == max(memory.total for _, memory in planned.stages)


def test_recomputation_and_zero_save_memory_and_cost_time() -> None:
    plain, recomputed = plan("xl"), plan("xl", "parallel.checkpoint_every_blocks=1")
    assert recomputed.memory < 0.6 * plain.memory
    assert 1.2 < recomputed.step.compute / plain.step.compute < 1.4
    zero = [plan("7b", "parallel.pipeline_stages=1", f"parallel.zero_stage={stage}", nodes=4) for stage in (1, 2, 3)]
    memory = [each.memory for each in zero]
    assert memory == sorted(memory, reverse=True)
    assert zero[2].step.network > 2 * zero[1].step.network > 0  # 16 micro-batches gather 16 times


def test_offloading_moves_the_optimizer_to_the_host() -> None:
    here, there = plan("xl"), plan("xl", "parallel.offload=[optimizer]")
    _, memory = there.stages[0]
    assert memory.optimizer == memory.ema == 0
    assert memory.host > here.stages[0][1].optimizer
    assert there.step.update > here.step.update


def test_one_gpu_sends_nothing() -> None:
    planned = plan_run(size("b"), cluster(gpus_per_node=1))
    assert planned.step.network == planned.step.bubble == 0
    assert planned.step.total == planned.step.compute + planned.step.update


def test_a_slow_network_asks_for_a_pipeline() -> None:
    """The same comparison as in docs/parallelism.md, which has it by other arithmetic."""
    pipeline = ("parallel.pipeline_stages=4", "schedule.micro_batch_size=4")
    fast = [plan("2b", *settings, nodes=4, fabric="ib-hdr200-x8") for settings in ((), pipeline)]
    slow = [plan("2b", *settings, nodes=4, fabric="eth-25g") for settings in ((), pipeline)]
    assert slow[1].hours < 0.3 * slow[0].hours
    assert slow[0].hours > 10 * fast[0].hours


def test_rates_follow_from_the_step() -> None:
    planned = plan("l")
    assert planned.images_per_second == 256 / planned.step.total
    assert planned.tokens_per_second == 256 * planned.images_per_second
    assert planned.gpu_hours == 8 * planned.hours == 8 * 2_001_823 * planned.step.total / 3600
    # Both counts of operations differ by what is no product: the tables, and the norms.
    assert planned.conventional_mfu / planned.mfu == pytest.approx(1.01, abs=0.01)
    assert 0.1 < planned.mfu < planned.cluster.gpu.efficiency


def test_bubbles_of_equal_stages_are_the_ideal() -> None:
    settings = ("parallel.pipeline_stages=4", "parallel.stage_boundaries=[10, 19, 28]", "schedule.micro_batch_size=4")
    planned = plan("xl", *settings)
    ideal = 3 / (planned.layout.accumulation + 3)
    assert planned.timeline.bubble == pytest.approx(ideal, abs=0.04)


def test_it_refuses_by_how_much() -> None:
    planned = plan("7b", "parallel.pipeline_stages=1", gpu="a100-40gb")
    assert not planned.fits
    over = (planned.memory - 0.85 * 39.4 * GIB) / GIB
    with pytest.raises(LayoutError, match=f"needs .* GiB, which is {over:.1f} GiB more than 85% of its GPU's 39.4 GiB"):
        check_memory(planned)
    check_memory(plan("l"))


def test_a_v100_has_no_bf16() -> None:
    with pytest.raises(LayoutError, match=r"precision=bf16, but this GPU does not train in bf16; set .* fp32 or fp16"):
        plan("l", gpu="v100-32gb")
    assert plan("l", "parallel.precision=fp16", gpu="v100-32gb").fits


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("elm_*.yaml")), ids=lambda path: path.stem)
def test_every_size_fits_its_hardware(path: Path) -> None:
    name = path.stem.removeprefix("elm_")
    nodes = {"xxl": 2, "2b": 4, "3.9b": 2, "7b": 4}.get(name, 1)
    planned = plan(name, nodes=nodes)
    check_memory(planned)
    assert sum(parameters for parameters, _ in planned.stages) == count_parameters(
        planned.config.model, planned.config.tokenizer.grid
    )

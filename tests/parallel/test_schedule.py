"""Our tables are those of the libraries that run them, and the simulation agrees with the papers' closed forms."""

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import pytest
import torch
import torch.distributed as dist
from deepspeed.runtime.pipe import schedule as deepspeed_schedules
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.pipelining import PipelineStage, schedules
from torch.testing._internal.distributed.fake_pg import FakeStore

from elm_dist.parallel.schedule import (
    Action,
    Kind,
    PartCost,
    Schedule,
    ScheduleName,
    build_schedule,
    draw,
    has_table,
    simulate,
)

NAMES: tuple[ScheduleName, ...] = get_args(ScheduleName)
SIZES = [(p, m) for p in (1, 2, 3, 4, 5, 8) for m in (1, 2, 3, 4, 7, 8, 12, 16, 17, 40)]


cases = st.tuples(st.sampled_from(NAMES), st.integers(1, 9), st.integers(1, 40)).filter(lambda case: has_table(*case))


def alike(
    schedule: Schedule, forward: float = 1, input_gradient: float = 1, weight_gradient: float = 1
) -> list[PartCost]:
    """Return equal costs of all parts, given those of what one stage holds."""
    share = len(schedule.stages) / schedule.parts
    return [PartCost(forward * share, input_gradient * share, weight_gradient * share, share)] * schedule.parts


# What the tables are


@settings(deadline=None)
@given(cases)
def test_every_part_sees_every_micro_batch_once_and_nobody_waits_for_ever(case: tuple[ScheduleName, int, int]) -> None:
    name, stages, micro_batches = case
    schedule = build_schedule(*case)
    assert len(schedule.stages) == stages
    assert schedule.parts == stages * (1 if name in ("gpipe", "1f1b") else 2)
    backward = [Kind.INPUT, Kind.WEIGHT] if name == "zbv" else [Kind.BACKWARD]
    expected = itertools.product([Kind.FORWARD, *backward], range(schedule.parts), range(micro_batches))
    assert Counter(action for actions in schedule.stages for action in actions) == Counter(
        Action(*action) for action in expected
    )
    for stage, actions in enumerate(schedule.stages):
        assert {schedule.stage_of_part[action.part] for action in actions} == {stage}
    simulate(schedule, alike(schedule))  # asserts that it comes to an end


@settings(deadline=None)
@given(cases)
def test_gradients_add_up_in_the_order_of_the_micro_batches(case: tuple[ScheduleName, int, int]) -> None:
    """So that a sum over micro-batches has the same bits as in one process."""
    for actions in build_schedule(*case).stages:
        for key in {action[:2] for action in actions}:
            order = [action.micro_batch for action in actions if action[:2] == key]
            assert order == sorted(order)


def test_stages_that_wait_for_each_other_are_found() -> None:
    forward, backward = Action(Kind.FORWARD, 0, 0), Action(Kind.BACKWARD, 0, 0)
    with pytest.raises(AssertionError, match="wait for each other"):
        simulate(Schedule(((backward, forward),)), [PartCost(1, 1, 1)])


def test_a_schedule_without_a_table_is_not_built() -> None:
    assert [m for m in range(1, 10) if has_table("dualpipev", 4, m)] == [8, 9]
    assert [m for m in range(1, 17) if not has_table("interleaved", 4, m)] == [9, 11, 13, 14]
    with pytest.raises(AssertionError, match="dualpipev"):
        build_schedule("dualpipev", 4, 7)


# DeepSpeed's instruction streams


def deepspeed_actions(stream: Any, parts: tuple[int, ...]) -> list[Action]:
    """Return the passes of a stream; micro-batches are counted, as buffers are numbers modulo their count."""
    counts: Counter[tuple[str, int]] = Counter()
    actions = []
    for instruction in (instruction for step in stream.steps() for instruction in step):
        if instruction.name in ("ForwardPass", "BackwardPass"):
            phase = getattr(instruction, "phase", 0)
            key = instruction.name, phase
            if isinstance(stream, deepspeed_schedules.TrainSchedule):
                assert instruction.buffer_id == counts[key] % stream.num_pipe_buffers()
            else:
                assert instruction.buffer_id == phase * stream.micro_batches + counts[key]
            actions.append(Action(Kind(instruction.name[0]), parts[phase], counts[key]))
            counts[key] += 1
    return actions


@pytest.mark.parametrize(("p", "m"), SIZES)
def test_1f1b_is_deepspeeds(p: int, m: int) -> None:
    for stage, actions in enumerate(build_schedule("1f1b", p, m).stages):
        assert list(actions) == deepspeed_actions(deepspeed_schedules.TrainSchedule(m, p, stage), (stage,))


@pytest.mark.parametrize(("p", "m"), [size for size in SIZES if has_table("dualpipev", *size)])
def test_dualpipev_is_deepspeeds(p: int, m: int) -> None:
    for stage, actions in enumerate(build_schedule("dualpipev", p, m).stages):
        stream = deepspeed_schedules.DualPipeVSchedule(m, p, stage)
        assert list(actions) == deepspeed_actions(stream, (stage, 2 * p - 1 - stage))


# torch.distributed.pipelining's tables. Of 1F1B it has none that it runs by: that order is written into its loop.


@contextmanager
def group_of(ranks: int) -> Iterator[None]:
    """Be rank 0 of a process group whose other ranks are not there: torch makes every rank's table on each."""
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def torch_actions(kind: type, parts: list[int], p: int, m: int) -> tuple[tuple[Action, ...], ...]:
    count = p * len(parts)
    with group_of(p):
        held = [PipelineStage(torch.nn.Identity(), part, count, torch.device("cpu")) for part in parts]
        schedule = kind(held if len(held) > 1 else held[0], m, loss_fn=lambda output, target: output)
        orders = getattr(schedule, "pipeline_order", None) or schedule._get_pipeline_order()
    table = []
    for rank in range(p):
        slots = [action for action in orders[rank] if action is not None]
        actions = [action for slot in slots for action in (slot.sub_actions or [slot])]
        passes = [action for action in actions if action.computation_type.value in set(Kind)]
        table.append(tuple(Action(Kind(a.computation_type.value), a.stage_index, a.microbatch_index) for a in passes))
    return tuple(table)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gpipe", schedules.ScheduleGPipe),
        ("interleaved", schedules.ScheduleInterleaved1F1B),
        ("zbv", schedules.ScheduleZBVZeroBubble),
    ],
)
@pytest.mark.parametrize(("p", "m"), SIZES)
def test_a_table_is_torchs(name: ScheduleName, kind: type, p: int, m: int) -> None:
    parts = [0] if name == "gpipe" else [0, p if name == "interleaved" else 2 * p - 1]
    if has_table(name, p, m):
        assert build_schedule(name, p, m).stages == torch_actions(kind, parts, p, m)
    else:
        with pytest.raises(ValueError, match=r"number of microbatches to be a\s+multiple"):
            torch_actions(kind, parts, p, m)


@pytest.mark.parametrize(("p", "m"), [size for size in SIZES if has_table("dualpipev", *size)])
def test_torchs_dualpipev_has_the_same_order_and_divides_some_backwards(p: int, m: int) -> None:
    for ours, torchs in zip(
        build_schedule("dualpipev", p, m).stages,
        torch_actions(schedules.ScheduleDualPipeV, [0, 2 * p - 1], p, m),
        strict=True,
    ):
        whole = [
            a._replace(kind=Kind.BACKWARD) if a.kind is Kind.INPUT else a for a in torchs if a.kind is not Kind.WEIGHT
        ]
        assert list(ours) == whole


# How long they take and what they hold

seconds = st.floats(0.01, 100)


@settings(deadline=None)
@given(st.sampled_from(["gpipe", "1f1b"]), st.integers(1, 9), st.integers(1, 40), seconds, seconds)
def test_the_bubble_of_one_part_a_stage(name: ScheduleName, p: int, m: int, forward: float, backward: float) -> None:
    timeline = simulate(build_schedule(name, p, m), [PartCost(forward, backward / 3, backward * 2 / 3)] * p)
    assert timeline.makespan == pytest.approx((m + p - 1) * (forward + backward))
    assert timeline.bubble == pytest.approx((p - 1) / (m + p - 1))


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), seconds, seconds)
def test_the_bubble_of_interleaved_parts_is_half(p: int, rounds: int, forward: float, backward: float) -> None:
    schedule = build_schedule("interleaved", p, p * rounds)
    timeline = simulate(schedule, alike(schedule, forward, backward / 2, backward / 2))
    assert timeline.makespan == pytest.approx((p * rounds + (p - 1) / 2) * (forward + backward))


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(0, 20), seconds)
def test_zero_bubble_v_waits_only_for_the_first_micro_batch(p: int, more: int, third: float) -> None:
    """Where forward and both gradients take equally long; of its half stage that is p - 1 times the forward pass."""
    schedule = build_schedule("zbv", p, 2 * p + more)
    timeline = simulate(schedule, alike(schedule, third, third, third))
    assert timeline.makespan == pytest.approx((3 * (2 * p + more) + (p - 1) / 2) * third)


@pytest.mark.parametrize(
    ("name", "peaks"),
    [
        ("gpipe", [16, 16, 16, 16]),
        ("1f1b", [4, 3, 2, 1]),
        ("interleaved", [5.5, 4.5, 3.5, 2.5]),
        ("zbv", [4, 4, 4, 4]),
        ("dualpipev", [4.5, 4.5, 4.5, 4.5]),
    ],
)
def test_peak_activations_in_micro_batches_of_a_stage(name: ScheduleName, peaks: list[float]) -> None:
    schedule = build_schedule(name, 4, 16)
    assert list(simulate(schedule, alike(schedule)).peak_activations) == peaks


def test_communication_delays_the_other_stage_only() -> None:
    """Two stages, one micro-batch: forward, send, forward and backward, send, backward."""
    costs = [PartCost(1, 2, 2), PartCost(1, 2, 2)]
    assert simulate(build_schedule("1f1b", 2, 1), costs, communication=0.25).makespan == 10.5
    assert simulate(build_schedule("zbv", 1, 1), costs, communication=0.25).makespan == 10  # both parts on one stage


def test_the_slowest_stage_sets_the_pace() -> None:
    """The middle stage waits 1 for its first input, 1 for its first gradient, and is followed by a backward of 2."""
    costs = [PartCost(1, 1, 1), PartCost(2, 2, 2), PartCost(1, 1, 1)]
    assert simulate(build_schedule("1f1b", 3, 20), costs).makespan == 1 + 1 + 20 * 6 + 2


def test_a_drawing() -> None:
    assert draw(simulate(build_schedule("1f1b", 2, 3), [PartCost(1, 1, 1)] * 2)) == (
        "stage  0 |F0 F1 ......B0    F2 B1    ...B2    |\nstage  1 |...F0 B0    F1 B1    F2 B2    ......|"
    )
    assert draw(simulate(build_schedule("zbv", 2, 3), [PartCost(1, 1, 1)] * 4)).splitlines()[1] == (
        "stage  1 |...F0 f0 F1 f1 i0 w0 F2 I0 W0 f2 i1 w1 I1 i2 I2 W1 w2 W2 |"
    )

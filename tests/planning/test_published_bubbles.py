"""The bubbles that the planner simulates, on Megatron-LM's published throughput by micro-batches."""

from itertools import chain
from statistics import mean

import pytest

from elm_dist.parallel.schedule import Action, Kind, PartCost, Schedule, build_schedule, simulate

# arXiv:2104.04473, read off its figure: TFLOP/s of a GPU, 175B on 12 stages, by micro-batches.
STAGES = 12
ONE_PART = {12: 82, 24: 109, 36: 122, 48: 130, 60: 135}
FOUR_PARTS = {12: 119, 24: 134, 36: 141, 48: 143, 60: 146}


def interleaved(parts: int, micro_batches: int) -> Schedule:
    """Return Megatron's table with `parts` parts a stage, which take turns at as many micro-batches as stages."""
    assert micro_batches % STAGES == 0

    def order(kind: Kind, turns: range, stage: int) -> list[Action]:
        return [
            Action(kind, turn * STAGES + stage, first + index)
            for first in range(0, micro_batches, STAGES)
            for turn in turns
            for index in range(STAGES)
        ]

    tables = []
    for stage in range(STAGES):
        forwards = order(Kind.FORWARD, range(parts), stage)
        backwards = order(Kind.BACKWARD, range(parts)[::-1], stage)
        warm_up = min(len(forwards), (parts - 1) * STAGES + 2 * (STAGES - 1 - stage))
        steady = len(forwards) - warm_up
        pairs = zip(forwards[warm_up:], backwards[:steady], strict=True)
        tables.append((*forwards[:warm_up], *chain(*pairs), *backwards[steady:]))
    return Schedule(tuple(tables))


def busy_share(schedule: Schedule) -> float:
    return 1 - simulate(schedule, [PartCost(1.0, 1.0, 1.0)] * schedule.parts).bubble


@pytest.mark.parametrize("parts", [1, 4])
def test_throughput_falls_with_the_bubble(parts: int) -> None:
    """One number is free: the throughput that there would be without a bubble."""
    published = ONE_PART if parts == 1 else FOUR_PARTS
    tables = {m: build_schedule("1f1b", STAGES, m) if parts == 1 else interleaved(4, m) for m in published}
    shares = {m: busy_share(table) for m, table in tables.items()}
    without = mean(published[m] / shares[m] for m in published)
    errors = {m: shares[m] * without / published[m] - 1 for m in published}
    print(f"{parts} parts a stage: " + ", ".join(f"m={m} {error:+.1%}" for m, error in errors.items()))
    assert max(map(abs, errors.values())) <= 0.05


def test_this_projects_own_measured_steps() -> None:
    """Stages that sleep (docs/parallelism.md): seconds of DeepSpeed's and torch's schedules, by (stages, m)."""
    measured = {
        "1f1b": {(4, 8): 1.395, (4, 16): 2.422, (8, 8): 1.922, (8, 16): 2.993},
        "dualpipev": {(4, 8): 1.327, (4, 16): 2.366, (8, 16): 2.885},
        "zbv": {(4, 8): 1.099, (4, 16): 2.135, (8, 8): 1.372, (8, 16): 2.325},
    }
    for name, points in measured.items():
        for (stages, m), seconds in points.items():
            schedule = build_schedule(name, stages, m)
            each = 0.04 * stages / schedule.parts  # 40 ms forward, 80 ms backward for each stage
            planned = simulate(schedule, [PartCost(each, each, each)] * schedule.parts).makespan
            print(f"{name} p={stages} m={m}: {planned:.3f} s planned, {seconds:.3f} s measured")
            assert 0.85 <= planned / seconds <= 1.0, "hand-overs and waking up come on top, and nothing else"

import random
import statistics

import pytest

from elm_dist.monitoring.health import SPIKE_WINDOW, SpikeScore, StragglerWatch


def test_a_spike_is_measured_against_the_steps_before_it() -> None:
    noise = random.Random(0)
    spikes, losses = SpikeScore(), [noise.gauss(5, 0.1) for _ in range(SPIKE_WINDOW)]
    for loss in [*losses, 7.0, 5.0]:
        spikes.count(loss)
    expected = (7.0 - statistics.fmean(losses)) / statistics.pstdev(losses)
    assert spikes.lap() == pytest.approx(expected)
    assert spikes.lap() == 0


def test_the_first_steps_have_nothing_to_be_compared_with() -> None:
    spikes = SpikeScore()
    for loss in (1.0, 100.0):
        spikes.count(loss)
    assert spikes.lap() == 0


def watch(steps: int, slowness: float, seed: int = 0) -> list[tuple[int, dict[int, float]]]:
    """Return what is found, and after which step, where rank 3 of 4 is slower and each step's time varies."""
    noise, watches = random.Random(seed), [StragglerWatch(25, 1.15) for _ in range(4)]
    found = []
    for step in range(1, steps + 1):
        seconds = [0.1 * noise.lognormvariate(0, 0.1) * (slowness if rank == 3 else 1) for rank in range(4)]
        medians = [watch.count(time) for watch, time in zip(watches, seconds, strict=True)]
        if medians[0] is not None:
            found.append((step, watches[0].judge(medians, [[0, 1, 2, 3]])))
    return [(step, ranks) for step, ranks in found if ranks]


@pytest.mark.parametrize("seed", range(20))
def test_a_rank_slower_by_30_percent_is_named_within_50_steps(seed: int) -> None:
    step, ranks = watch(50, 1.3, seed)[0]
    assert step == 50
    assert list(ranks) == [3]
    assert ranks[3] == pytest.approx(1.3, abs=0.15)


@pytest.mark.parametrize("seed", range(20))
def test_there_is_no_false_alarm_in_500_steps(seed: int) -> None:
    assert watch(500, 1.0, seed) == []


def test_only_ranks_with_the_same_work_are_compared() -> None:
    watch, medians = StragglerWatch(25, 1.15), [0.1, 0.1, 0.3, 0.3]
    for _ in range(2):
        found = watch.judge(medians, [[0, 1], [2, 3]])
    assert found == {}
    for _ in range(2):
        found = watch.judge([0.1, 0.1, 0.3, 0.45], [[0, 1], [2, 3]])
    assert found == {3: pytest.approx(1.5)}


def test_one_slow_window_is_no_straggler() -> None:
    watch = StragglerWatch(25, 1.15)
    assert [watch.judge(medians, [[0, 1]]) for medians in ([1.0, 2.0], [1.0, 1.0], [1.0, 2.0])] == [{}, {}, {}]


def test_a_window_of_no_steps_measures_nothing() -> None:
    watch = StragglerWatch(0, 1.2)
    assert [watch.count(0.1) for _ in range(100)] == [None] * 100

import time

import pytest

from elm_dist.monitoring.clock import Clock


def test_a_lap_counts_steps_and_waiting_but_not_pauses() -> None:
    clock = Clock()
    with clock.paused():
        time.sleep(0.3)
    time.sleep(0.1)
    clock.count(0.02)
    clock.count(0.03)
    seconds, share = clock.lap()
    assert 0.05 <= seconds < 0.15
    assert share == pytest.approx(0.05 / (2 * seconds))

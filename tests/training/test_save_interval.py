import logging
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elm_dist.training import save_interval
from elm_dist.training.save_interval import LEAST_SECONDS, SaveInterval


def test_the_interval_is_young_s() -> None:
    assert SaveInterval(24).best(10) == pytest.approx(math.sqrt(2 * 10 * 24 * 3600))


@given(st.floats(0.1, 1000), st.floats(0.01, 2000))
def test_no_other_interval_loses_less(save_seconds: float, mtbf_hours: float) -> None:
    def lost(interval: float) -> float:
        return save_seconds / interval + interval / (2 * 3600 * mtbf_hours)

    best = SaveInterval(mtbf_hours).best(save_seconds)
    if LEAST_SECONDS < best < 1800 * mtbf_hours:
        assert lost(best) <= min(lost(best * 0.9), lost(best * 1.1))


def test_it_has_bounds() -> None:
    assert SaveInterval(24).best(0) == LEAST_SECONDS
    assert SaveInterval(1).best(1e6) == 1800  # half the time between faults
    assert SaveInterval(0.001).best(0) == 1.8


def test_it_is_over_when_its_time_has_passed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    interval = SaveInterval(24)
    assert not interval.is_over()
    now[0] = LEAST_SECONDS
    assert interval.is_over()
    with caplog.at_level(logging.INFO, logger=save_interval.__name__):
        interval.saved(10, step_seconds=0.5)
        interval.saved(11, step_seconds=0.5)  # no news
    assert caplog.messages == ["checkpoint.every=auto: a save holds up 10.00 s, so one every 1315 s, about 2,630 steps"]
    assert not interval.is_over()
    now[0] += 1379
    assert interval.is_over()

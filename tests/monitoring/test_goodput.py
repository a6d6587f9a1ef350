import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elm_dist.monitoring.events import Event
from elm_dist.monitoring.goodput import Goodput, account, list_faults

KILLED_ONCE = [
    Event("start", 100, 0, setup_seconds=5),
    Event("save", 150, 50, save_seconds=2, data_wait_seconds=1),
    Event("progress", 170, 70, save_seconds=2, data_wait_seconds=3),  # then it was killed
    Event("start", 200, 50),
    Event("save", 260, 100, save_seconds=4, data_wait_seconds=1),
    Event("finish", 265, 100, save_seconds=4, data_wait_seconds=1),
]


def test_a_run_that_was_killed_once() -> None:
    result = account(KILLED_ONCE)
    assert result.elapsed == 5 + 70 + 30 + 65
    assert result.restart == 5 + 30
    assert result.replay == 20  # steps 51 to 70
    assert result.save == 2 + 4
    assert result.data_wait == 1 + 1  # the two seconds in the replay are lost already
    assert result.useful == 170 - 35 - 20 - 6 - 2
    assert (result.starts, result.faults) == (2, 1)
    assert list_faults(KILLED_ONCE) == ["after step 70: ended without a word"]
    assert str(result) == (
        "62.9% of 0.05 h useful; lost to restarts 20.6%, replay 11.8%, saves 3.5%, data 1.2%; 2 starts, 1 faults, one "
        "every 0.047 h (checkpoint.mtbf_hours)"
    )


def test_what_a_fault_says_is_listed_and_its_time_is_replay() -> None:
    fault = Event("fault", 180, 50, reason="the disk is full", exit_code=1)
    events = [*KILLED_ONCE[:2], fault, *KILLED_ONCE[3:]]
    assert account(events).replay == 30
    assert list_faults(events) == ["after step 50: the disk is full"]
    assert list_faults(events[:3]) == ["after step 50: the disk is full"]


def test_the_time_after_a_stop_on_request_belongs_to_nobody() -> None:
    stop = Event("stop", 150, 50, save_seconds=2, data_wait_seconds=1)
    result = account([*KILLED_ONCE[:2], stop, *KILLED_ONCE[3:]])
    assert result.elapsed == 5 + 50 + 65
    assert (result.replay, result.faults) == (0, 0)


def test_a_checkpoint_that_was_damaged_sends_two_starts_back() -> None:
    """The third start goes on from before the second one."""
    again = [Event("start", 300, 0), Event("finish", 420, 100)]
    result = account([*KILLED_ONCE[:-1], *again])
    assert result.replay == 70 + 60
    assert result.useful == 120
    assert result.starts == 3


def test_going_back_within_a_process_is_replay_too() -> None:
    events = [
        Event("start", 0, 0),
        Event("save", 10, 10, save_seconds=1),
        Event("progress", 25, 25, save_seconds=1),
        Event("rollback", 26, 10, save_seconds=1),
        Event("finish", 40, 30, save_seconds=3),
    ]
    result = account(events)
    assert (result.elapsed, result.replay, result.save, result.starts, result.faults) == (40, 15, 3, 1, 1)
    assert list_faults(events) == ["after step 25: went back to step 10"]


def test_what_fails_before_its_first_step_is_part_of_the_restart() -> None:
    setup_fault = Event("fault", 190, 50, reason="no GPU")
    events = [*KILLED_ONCE[:2], Event("fault", 150, 50, reason="first"), setup_fault, *KILLED_ONCE[3:]]
    assert account(events).restart == 5 + 50
    assert list_faults(events) == ["after step 50: first"]


def test_nothing_yet() -> None:
    assert account([]) == Goodput()
    assert list_faults([]) == []
    assert account([]).percent == 100
    assert Goodput().going_on(10, 1, 2).percent == 70


@example([("start", 1.0, 0), ("save", 0.0, 1), ("save", 1.0, 0), ("start", 0.0, 1)])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["start", "save", "progress", "fault", "stop"]), st.floats(0, 1e6), st.integers(0, 99)
        )
    )
)
def test_clocks_that_run_anyhow_give_shares_from_0_to_100(lines: list[tuple[str, float, int]]) -> None:
    result = account([Event(kind, time, step) for kind, time, step in lines])
    assert 0 <= result.percent <= 100
    assert min(result.elapsed, result.restart, result.replay) >= 0
    assert result.useful == pytest.approx(result.elapsed - result.restart - result.replay, abs=1e-3)

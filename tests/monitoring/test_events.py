import json
import time
from pathlib import Path

import pytest

from elm_dist.errors import FaultError, TrainingError
from elm_dist.monitoring import events
from elm_dist.monitoring.events import EventLog, append_event, faults_recorded, read_events


def test_a_log_says_what_happened_and_what_it_took(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.start(10)
    log.count(11, 0.25)
    with log.saving(11):
        time.sleep(0.05)
    log.write("stop", 11)
    start, save, stop = read_events(path)
    assert (start.kind, start.step, start.save_seconds) == ("start", 10, 0)
    assert start.host
    assert start.pid > 0
    assert (save.kind, save.step, save.data_wait_seconds) == ("save", 11, 0.25)
    assert save.save_seconds >= 0.05
    assert stop.time >= start.time
    assert log.last_save_seconds >= 0.05
    assert log.since_start()[1:] == (log.last_save_seconds, 0.25)


def test_signs_of_life_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.start(0)
    for step in range(1, 100):
        log.count(step, 0)
    assert len(read_events(path)) == 1
    monkeypatch.setattr(events, "MARK_SECONDS", 0.0)
    log.count(100, 0)
    assert read_events(path)[-1].kind == "progress"
    assert read_events(path)[-1].step == 100


def test_other_ranks_are_silent(tmp_path: Path) -> None:
    log = EventLog(None)
    log.start(0)
    with log.saving(1):
        pass
    log.write("finish", 1)
    assert not list(tmp_path.iterdir())


def test_torn_lines_are_passed_over_and_what_follows_them_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_event(path, "start", step=3)
    with path.open("a") as file:
        file.write('{"event": "progress", "ti')  # the process was killed here
    append_event(path, "start", step=2)
    append_event(path, "fault", reason="no step of its own")
    assert [(event.kind, event.step) for event in read_events(path)] == [("start", 3), ("start", 2), ("fault", 2)]
    assert not read_events(tmp_path / "nothing.jsonl")


@pytest.mark.parametrize(("error", "code"), [(FaultError("a disk"), 1), (TrainingError("a loss"), 2), (KeyError(), 1)])
def test_a_fault_is_recorded_with_its_first_line_and_its_code(tmp_path: Path, error: Exception, code: int) -> None:
    path = tmp_path / "events.jsonl"
    with pytest.raises(type(error)), faults_recorded(path):
        raise error
    (fault,) = map(json.loads, path.read_text().splitlines())
    assert fault["event"] == "fault"
    assert fault["reason"] == (str(error) or type(error).__name__)
    assert fault["exit_code"] == code


def test_what_fails_before_there_is_a_run_makes_none(tmp_path: Path) -> None:
    with pytest.raises(TrainingError), faults_recorded(tmp_path / "run" / "events.jsonl"):
        raise TrainingError("refused")
    assert not (tmp_path / "run").exists()

"""Real processes that hang in several ways."""

import subprocess
import sys
from pathlib import Path

import pytest

from elm_dist.monitoring.watchdog import Watchdog, describe_hang

PRELUDE = """
import sys, time
from pathlib import Path
from elm_dist.monitoring import watchdog
watchdog.GRACE_SECONDS = 0.5
directory = Path(sys.argv[1])

def note(sentence):
    (directory / "said").write_text(sentence)

"""
FORGETS = "with watchdog.Watchdog(directory, 2, 3, 0.5, note) as dog:\n    dog.beat(7)\n    time.sleep(60)\n"
# A call into C that keeps the interpreter to itself.
HOLDS = "import ctypes\nwith watchdog.Watchdog(directory, 0, 1, 0.5, note):\n    ctypes.PyDLL(None).sleep(60)\n"
GOES_ON = (
    "with watchdog.Watchdog(directory, 0, 1, 0.5, note) as dog:\n"
    "    for step in range(10):\n        time.sleep(0.15)\n        dog.beat(step)\n"
    "time.sleep(1)\n"  # after the end of its watch
)
OFF = "with watchdog.Watchdog(directory, 0, 1, 0, note) as dog:\n    dog.beat(1)\n    time.sleep(1)\n"


def start(code: str, directory: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", PRELUDE + code, str(directory)], stderr=subprocess.PIPE, text=True)


def test_processes_that_hang_end_and_others_go_on(tmp_path: Path) -> None:
    codes = {"forgets": FORGETS, "holds": HOLDS, "goes_on": GOES_ON, "off": OFF}
    processes = {}
    for name, code in codes.items():
        (tmp_path / name).mkdir()
        processes[name] = start(code, tmp_path / name)
    said = {name: process.communicate(timeout=30)[1] for name, process in processes.items()}
    assert {name: process.returncode for name, process in processes.items()} == dict(
        forgets=1, holds=1, goes_on=0, off=0
    )
    report = (tmp_path / "forgets" / "rank00002.txt").read_text()
    assert report.startswith("step 7 done, stands in ")
    assert 'File "<string>", line ' in report  # the stack of the thread that hangs
    sentence = (tmp_path / "forgets" / "said").read_text()
    assert "rank 0-1 did not report: that process or its machine stands still; rank 2: step 7 done" in sentence
    assert sentence in said["forgets"]
    assert "Timeout (0:00:02" in said["holds"]
    assert not list((tmp_path / "goes_on").iterdir())
    assert not list((tmp_path / "off").iterdir())


def test_ranks_are_named_together_by_where_they_stand(tmp_path: Path) -> None:
    for rank in (0, 1, 2, 5, 7):
        place = "data/shards.py:88 read" if rank == 2 else "parallel/engine.py:190 _collect"
        (tmp_path / f"rank{rank:05d}.txt").write_text(f"step 9 done, stands in {place}\nThread 0x1\n")
    assert describe_hang(tmp_path, [0, 1, 2, 5, 7], 8, 90) == (
        "no progress for 1.5 minutes (monitoring.hang_minutes): rank 3-4, 6 did not report: that process or its "
        "machine stands still; rank 2: step 9 done, stands in data/shards.py:88 read; rank 0-1, 5, 7: step 9 done, "
        f"stands in parallel/engine.py:190 _collect; the stacks are in {tmp_path}; started again, the run goes on from "
        "its newest checkpoint"
    )


def test_the_report_of_an_earlier_hang_is_set_aside(tmp_path: Path) -> None:
    old = tmp_path / "rank00000.txt"
    old.write_text("step 1 done, stands in an earlier run\n")
    with Watchdog(tmp_path, 0, 1, 60, pytest.fail):
        assert not old.exists()
        assert (tmp_path / "previous-rank00000.txt").read_text() == "step 1 done, stands in an earlier run\n"

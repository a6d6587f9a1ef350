import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "step.py"
TINY = ["--hidden", "32", "--layers", "2", "--grid", "4", "--batch", "2", "--rounds", "2"]


def test_the_benchmark_compares_steps_and_shows_what_is_left() -> None:
    command = [sys.executable, str(BENCHMARK), *TINY]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    heading, engine, model, empty, profile, *events = result.stdout.splitlines()
    assert heading.split() == ["one", "thread,", "CPU", "ms", "ours", "bare", "ratio", "at", "most"]
    assert engine.startswith("engine over bare loop")
    assert model.startswith("forward + backward over bare GEMMs")
    assert all(float(row.split()[-2]) > 0 for row in (engine, model))
    assert not empty
    assert profile.startswith("forward + backward ")
    assert any(event.startswith("aten::mm ") for event in events)

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "sampling.py"
TINY = ["--hidden", "32", "--layers", "2", "--grid", "4", "--batch", "2", "--rounds", "2"]
TINY += ["--floor-hidden", "32", "--floor-layers", "2", "--floor-steps", "4"]


def test_the_benchmark_compares_ways_to_draw_the_same_codes() -> None:
    result = subprocess.run(
        [sys.executable, str(BENCHMARK), *TINY], capture_output=True, text=True, check=True, timeout=200
    )
    rows = result.stdout.splitlines()
    middle = next(index for index, row in enumerate(rows) if row.startswith("one thread, CPU ms a step"))
    heading, *pairs = rows[:middle]
    floor = rows[middle + 1 :]
    assert heading.split() == ["one", "thread,", "CPU", "ms", "an", "image", "one", "other", "ratio", "same", "codes"]
    for row in pairs:
        assert row.split()[-1] == ("no" if "guided" in row else "yes"), row
    assert sum(row.startswith("ours / ") for row in pairs) >= 4
    assert [row.partition(" / ")[0] for row in floor] == [
        f"{name}, a step of {rows}" for name in ("ours", "plain loop") for rows in (1, 2)
    ]
    figures = [row.split()[-4:-1] for row in pairs] + [row.split()[-3:] for row in floor]
    assert all(float(figure) > 0 for row in figures for figure in row)


def test_one_pair_can_be_asked_for() -> None:
    command = [sys.executable, str(BENCHMARK), *TINY, "--only", "plain loop"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    assert [row.partition("  ")[0] for row in result.stdout.splitlines()[1:]] == ["ours / plain loop"]

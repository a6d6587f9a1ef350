import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "sampling.py"
TINY = ["--hidden", "32", "--layers", "2", "--grid", "4", "--batch", "2", "--rounds", "2"]


def test_the_benchmark_compares_ways_to_draw_the_same_codes() -> None:
    result = subprocess.run(
        [sys.executable, str(BENCHMARK), *TINY], capture_output=True, text=True, check=True, timeout=200
    )
    heading, *rows = result.stdout.splitlines()
    assert heading.split() == ["one", "thread,", "CPU", "ms", "an", "image", "one", "other", "ratio", "same", "codes"]
    assert [row.partition(" / ")[0] for row in rows[:2]] == ["ours", "ours"]
    assert [row.split()[-1] for row in rows] == ["yes", "yes", "no", "no", "no"]  # the others are guided otherwise
    assert all(float(number) > 0 for row in rows for number in row.split()[-4:-1])

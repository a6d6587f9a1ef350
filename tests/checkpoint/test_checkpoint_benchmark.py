import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "checkpoint.py"


def test_the_benchmark_compares_both_saves_and_raw_writing(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--hidden-size", "64", "--rounds", "2", "--directory", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    heading, *rows = result.stdout.splitlines()[-7:]
    assert "2 rounds: median, and the range" in heading
    assert [row.partition(",")[0] for row in rows[:3]] == [
        "synchronous save",
        "stall of an asynchronous save",
        "until that is on disk",
    ]
    assert "target: at most 0.15" in rows[4]
    assert "target: at least 0.70" in rows[5]
    assert not list(tmp_path.iterdir())

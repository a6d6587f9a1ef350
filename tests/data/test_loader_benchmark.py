import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "loader.py"


def test_the_benchmark_compares_three_ways_to_read() -> None:
    result = subprocess.run(
        [sys.executable, str(BENCHMARK), "--samples", "2560"], capture_output=True, text=True, check=True, timeout=100
    )
    heading, *rows, _ = result.stdout.splitlines()
    assert "samples/s" in heading
    assert [row[:8] for row in rows] == ["elm-dist", "webdatas", "np.memma"]
    assert "1.00x" in rows[0]

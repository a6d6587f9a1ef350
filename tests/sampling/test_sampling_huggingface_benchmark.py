import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "sampling_huggingface.py"
TINY = ["--hidden", "32", "--layers", "2", "--grid", "4", "--batch", "2", "--rounds", "2"]


def test_the_benchmark_compares_with_transformers_drawing_the_same_codes() -> None:
    result = subprocess.run(
        [sys.executable, str(BENCHMARK), *TINY], capture_output=True, text=True, check=True, timeout=200
    )
    heading, *rows = result.stdout.splitlines()
    assert heading.split()[-5:] == ["one", "other", "ratio", "same", "codes"]
    assert [row.split(",")[0] for row in rows] == [
        "ours / generate of transformers",
        "ours / generate_codes of the export",
    ]
    assert [row.split()[-1] for row in rows] == ["100.00%", "100.00%"]
    assert all(float(number) > 0 for row in rows for number in row.split()[-4:-1])

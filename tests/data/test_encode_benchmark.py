import re
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "encode.py"


def test_the_benchmark_measures_the_parts_and_the_whole() -> None:
    result = subprocess.run(
        [sys.executable, str(BENCHMARK), "--images", "10", "--rounds", "1"],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    heading, *rows, ratio = result.stdout.splitlines()
    assert heading.startswith("images/s of 12 images")
    assert [row.split("  ")[0] for row in rows] == ["encoder alone", "loading alone", "the whole"]
    assert all(float(row.split()[-1].replace(",", "")) > 0 for row in rows)
    assert re.fullmatch(r"the whole is \d\.\d\d of the encoder alone; one after the other would be 0\.\d\d", ratio)

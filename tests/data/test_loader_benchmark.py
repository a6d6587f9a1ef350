import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "loader.py"


def test_the_benchmark_compares_the_ways_to_read() -> None:
    result = subprocess.run(
        [sys.executable, str(BENCHMARK), "--samples", "1024"], capture_output=True, text=True, check=True, timeout=100
    )
    lines = result.stdout.splitlines()
    assert "samples/s" in lines[0]
    ways = [line.split(",")[0] for line in lines[1:-1]]
    assert ways[:4] == ["elm-dist", "elm-dist", "webdataset", "np.memmap"]
    assert "1.00x" in lines[1]
    assert ways[4:] == ["litdata"] if find_spec("litdata") else "litdata is not installed" in lines[-1]

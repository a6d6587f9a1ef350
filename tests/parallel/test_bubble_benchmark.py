import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "bubble.py"
COLUMNS = ("seconds", "ideal", "ratio", "simulated", "of simulated", "bubble", "held", "simulated held", "to 1F1B")


def test_the_benchmark_compares_every_schedule_with_1f1b() -> None:
    arguments = ["--stages", "2", "--micro-batches", "4", "--forward", "0.01", "--backward", "0.02", "--steps", "1"]
    report = subprocess.run(
        [sys.executable, str(BENCHMARK), *arguments], capture_output=True, text=True, timeout=120, env=os.environ
    )
    assert report.returncode == 0, report.stderr
    heading, *lines, verdict, _, _ = report.stdout.strip().splitlines()
    assert heading.startswith("p = 2, m = 4")
    rows = {line[:22].strip(): dict(zip(COLUMNS, line[22:].split(), strict=True)) for line in lines}
    torchs = ["torch 1f1b", "torch interleaved", "torch zbv", "torch dualpipev"]
    assert list(rows) == ["DeepSpeed 1f1b", "DeepSpeed dualpipev", *torchs]
    for row in rows.values():
        assert float(row["ideal"]) == 0.15  # (4 + 2 - 1) x 0.03
        assert float(row["seconds"]) >= 0.999 * float(row["simulated"]) > 4 * 0.03  # sleeping cannot be sped up
        assert row["held"] == row["simulated held"]
    assert rows["DeepSpeed 1f1b"]["to 1F1B"] == "1.000"
    assert verdict.startswith("DeepSpeed 1f1b is ")

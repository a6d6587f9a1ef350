"""Replicas of which one computes slower than the others: it is named, and nobody else."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from trained_run import TINY, folders

SLOW_RUN = Path(__file__).parent / "slow_run.py"
SETTINGS = ["schedule.micro_batch_size=1", "monitoring.validation_every=0", "monitoring.sample_every=0"]


def train(tokenized: Path, run: Path, slow_ranks: str, steps: int) -> list[tuple[str, float]]:
    """Return the ranks that four replicas name in so many steps, and how many times as long each takes."""
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "4", str(SLOW_RUN)]
    command = [*torchrun, "--config", str(TINY), *folders(tokenized, run), *SETTINGS, f"schedule.total_steps={steps}"]
    environment = os.environ | {"SLOW_RANKS": slow_ranks}
    result = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert result.returncode == 0, result.stderr
    found = re.findall(r"rank (\d) is a straggler: its forward passes take ([\d.]+) times as long", result.stderr)
    return [(rank, float(ratio)) for rank, ratio in found]


def test_a_rank_slower_by_30_percent_is_named_within_50_steps(tokenized: Path, tmp_path: Path) -> None:
    named = train(tokenized, tmp_path / "run", slow_ranks="2", steps=50)
    assert [rank for rank, _ in named] == ["2"]
    assert named[0][1] == pytest.approx(1.3, abs=0.15)


@pytest.mark.slow
def test_there_is_no_false_alarm_in_500_steps(tokenized: Path, tmp_path: Path) -> None:
    assert train(tokenized, tmp_path / "run", slow_ranks="", steps=500) == []

"""A run that comes across data which it cannot learn from: it goes back, around them, and on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from trained_run import TINY, folders

ILL_RUN = Path(__file__).parent / "ill_run.py"
SETTINGS = ["checkpoint.every=5", "checkpoint.keep_last=9", "monitoring.log_every=1", "monitoring.sample_every=0"]


def train(tokenized: Path, run: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ILL_RUN), "--config", str(TINY), *folders(tokenized, run), *SETTINGS, *overrides]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def read_checkpoint(run: Path, step: int) -> tuple[dict[str, int], dict[str, str]]:
    manifest = json.loads((run / "checkpoints" / f"step_{step:08d}" / "manifest.json").read_text())
    return manifest["facts"], {file: entry["sha256"] for file, entry in manifest["files"].items()}


@pytest.fixture(scope="module")
def undisturbed(tokenized: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that came across three ill batches, and what it said."""
    run = tmp_path_factory.mktemp("ill") / "run"
    result = train(tokenized, run, "schedule.total_steps=13", "health.skips_before_rollback=3")
    assert result.returncode == 0, result.stderr
    return run, result.stderr


def test_it_goes_back_and_on_with_the_data_after_them(undisturbed: tuple[Path, str]) -> None:
    run, said = undisturbed
    assert "step 7 had no finite loss or gradients: nothing was updated; samples [" in said
    assert "back from step 9 to the checkpoint of step 5, and on with later data" in said
    facts, _ = read_checkpoint(run, 13)
    assert facts["jumped_batches"] == 4
    assert facts["skipped_steps"] == 0
    reports = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [report["step"] for report in reports if "train/loss" in report]
    assert steps == list(range(1, 14)), "each step once"


def test_stopped_after_it_went_back_it_goes_on_bit_for_bit(
    tokenized: Path, undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    for total in (10, 13):
        result = train(tokenized, tmp_path / "run", f"schedule.total_steps={total}", "health.skips_before_rollback=3")
        assert result.returncode == 0, result.stderr
    assert read_checkpoint(tmp_path / "run", 13) == read_checkpoint(undisturbed[0], 13)


def test_a_few_skipped_steps_do_not_make_it_go_back(tokenized: Path, tmp_path: Path) -> None:
    """And a restart counts its updates without them, by which Adam corrects its moments."""
    runs = [tmp_path / name for name in ("through", "stopped")]
    for run, totals in zip(runs, ((13,), (10, 13)), strict=True):
        for total in totals:
            result = train(tokenized, run, f"schedule.total_steps={total}", "schedule.final_learning_rate_share=1")
            assert result.returncode == 0, result.stderr
            assert "back from step" not in result.stderr
    facts = read_checkpoint(runs[0], 13)[0]
    assert facts["skipped_steps"] == 3
    assert facts["jumped_batches"] == 0
    assert read_checkpoint(runs[0], 13) == read_checkpoint(runs[1], 13)

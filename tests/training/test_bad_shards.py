"""Runs whose shards are bad: the same curve on every layout, with what was replaced in the report."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from trained_run import TINY, TRAIN, folders

from elm_dist.data.shards import ShardReader, load_manifest
from elm_dist.data.writer import ShardWriter

PYTHON = [sys.executable, str(TRAIN)]
TORCHRUN = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2", str(TRAIN)]


@pytest.fixture(scope="module")
def broken(tokenized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokens of `tokenized` in eight shards for training, of which one is missing and one is truncated."""
    directory = tmp_path_factory.mktemp("broken") / "shards"
    manifest = load_manifest(tokenized / "shards")
    writer, files = ShardWriter(directory, manifest.model_copy(update={"splits": {}})), {}
    for split in manifest.splits:
        reader = ShardReader(tokenized / "shards", manifest, split)
        codes, labels = reader.read(np.arange(len(reader)))
        files[split] = []
        for number, start in enumerate(range(0, len(labels), 20)):
            files[split].append(f"{split}-{number:06d}.tar")
            writer.write(files[split][-1], codes[start : start + 20], labels[start : start + 20])
    writer.finish(files)
    (directory / "train-000002.tar").unlink()
    (directory / "train-000005.tar").write_bytes(b"")
    return directory


def train(
    launcher: list[str], tokenized: Path, shards: Path, run: Path, *overrides: str
) -> "subprocess.CompletedProcess[str]":
    settings = [*folders(tokenized, run), f"data.shards={shards}", "monitoring.sample_every=0", *overrides]
    return subprocess.run([*launcher, "--config", str(TINY), *settings], capture_output=True, text=True, timeout=200)


def test_training_goes_on_alike_on_every_layout_and_says_what_it_skips(
    tokenized: Path, broken: Path, tmp_path: Path
) -> None:
    """The two stages read the same positions in two processes: had they other samples, the curve would be another."""
    curves = []
    for launcher, stages in ((PYTHON, 1), (TORCHRUN, 2)):
        run = tmp_path / str(stages)
        limits = ["data.max_bad_shards=0.25", f"parallel.pipeline_stages={stages}"]
        result = train(launcher, tokenized, broken, run, *limits)
        assert result.returncode == 0, result.stderr
        said = [line for line in result.stderr.splitlines() if "other samples are read in place" in line]
        assert len(said) == 2 * stages
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        curves.append([line for line in lines if "train/loss" in line])
    for one, two in zip(*curves, strict=True):
        for name in ("train/loss", "data/bad_shards", "data/replaced_samples"):
            assert one[name] == pytest.approx(two[name], rel=1e-5)
    assert curves[0][-1]["step"] == 6
    assert curves[0][-1]["data/bad_shards"] == 2
    assert 0 < curves[0][-1]["data/replaced_samples"] < 6 * 8 / 2

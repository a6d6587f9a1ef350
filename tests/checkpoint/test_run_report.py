import json
import re
import shutil
from pathlib import Path

from command_line import elm, refused

from elm_dist.checkpoint.run_report import inspect_run


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_run_is_described(trained: Path) -> None:
    result = elm("inspect", str(trained))
    assert result.code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{trained}: 2 layers of 32, 2-4 sub-tokens, 4 classes, ")
    assert lines[1].startswith("tokenizer    bae, 4 x 4 codes of 8 bits, in ")
    assert "which is not there" not in lines[1]
    assert "(cpu): 1 processes = 1 pipeline stages x 1 replicas, 4 micro-batches" in lines[2]
    assert lines[3] == "checkpoints  2 of 2 checksums good; `latest` is step 6"
    for line, step in zip(lines[4:6], (3, 6), strict=True):
        assert line.startswith(f"             step {step}: ")
        assert " MB, saved 20" in line
        assert "by 1 processes = 1 pipeline stages x 1 replicas" in line
    reports = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    newest = [report["train/loss"] for report in reports if "train/loss" in report][-1]
    assert lines[6] == f"train/loss       {newest:.4f} at step 6"
    assert lines[7].startswith("validation/loss ")
    assert re.fullmatch(r"goodput +\d+\.\d% of 0\.\d+ h useful; lost to restarts .*; 1 starts", lines[8])


def test_a_damaged_checkpoint_is_named(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    flip_byte(run / "checkpoints" / "step_00000003" / "exp_avg-00000.safetensors")
    result = elm("inspect", str(run))
    assert result.code == 1
    assert "1 of 2 checksums good" in result.stdout
    assert "step 3: damaged: " in result.stdout
    assert "exp_avg-00000.safetensors is missing or damaged" in result.stdout


def test_fast_checks_sizes_alone(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    victim = run / "checkpoints" / "step_00000003" / "exp_avg-00000.safetensors"
    flip_byte(victim)
    result = elm("inspect", str(run), "--fast")
    assert result.code == 0
    assert "2 of 2 complete, checksums not checked" in result.stdout
    victim.write_bytes(victim.read_bytes()[:-1])
    assert elm("inspect", str(run), "--fast").code == 1


def test_a_run_that_has_only_begun(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "config.yaml", tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.5}\n{"step": 2, "train/l')
    report = inspect_run(tmp_path)
    assert report.is_good
    assert str(report).splitlines()[2:] == [
        "started      never",
        "checkpoints  0 of 0 checksums good",
        "train/loss       2.5000 at step 1",
    ]


def test_a_folder_that_is_neither_run_nor_shards_is_refused(tmp_path: Path) -> None:
    said = refused("inspect", str(tmp_path))
    assert said == (
        f"error: {tmp_path}: there are no token shards here (no manifest.json), and no run (no config.yaml); give a "
        "folder made by `elm tokenize`, or the run.directory of a training\n"
    )


def test_options_of_shards_are_refused_for_a_run_and_the_other_way_round(trained: Path) -> None:
    said = refused("inspect", str(trained), "--out", "x.png")
    assert "--tokenizer and --out draw samples of shards, and" in said
    shards = trained.parent / "shards"
    assert f"--fast is for the checkpoints of a run; {shards} holds shards" in refused("inspect", str(shards), "--fast")

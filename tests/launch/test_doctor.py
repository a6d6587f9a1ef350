"""The doctor on this machine: what it finds, what it says where something is wrong, and what two processes add."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from command_line import elm
from trained_run import TINY, folders, tokenize_tiles

from elm_dist.config_file import load_config
from elm_dist.launch import machine_checks
from elm_dist.launch.doctor import Diagnosis
from elm_dist.launch.machine_checks import Finding, check_machine
from elm_dist.parallel.environment import ProcessEnvironment, process_environment

HERE = ProcessEnvironment(0, 0, 1, "127.0.0.1", 29500, "a test")


def find(subject: str, *overrides: str, environment: ProcessEnvironment = HERE) -> Finding:
    config = load_config(TINY, list(overrides))
    return next(finding for finding in check_machine(config, environment) if finding.subject == subject)


def test_a_machine_that_can_do_the_run(tmp_path: Path) -> None:
    tiles = tokenize_tiles(tmp_path)
    out = tmp_path / "found.json"
    result = elm("doctor", str(TINY), *folders(tiles, tmp_path / "run"), "--out", str(out))
    assert result.code == 0, result.stderr
    found = json.loads(out.read_text())
    assert found["is_good"]
    subjects = [finding["subject"] for finding in found["findings"]]
    assert subjects == [
        *("host", "device", "versions", "bit packing", "shared memory", "rendezvous", "disk", "disk room", "data")
    ]
    assert not list(tmp_path.glob(".elm-doctor*")), "the probe of the disk is gone"


def test_a_machine_that_cannot(tmp_path: Path) -> None:
    result = elm("doctor", str(TINY), f"data.shards={tmp_path / 'none'}", f"run.directory={tmp_path / 'run'}")
    assert result.code == 1
    assert "not ready: see what to do about the lines that are bad" in result.stdout


def test_without_a_configuration_it_looks_at_the_machine_alone() -> None:
    result = elm("doctor")
    assert result.code == 0
    assert "shards" not in result.stdout


def test_a_gpu_that_is_wanted_and_not_there() -> None:
    finding = find("device", "parallel.device=cuda")
    assert finding.verdict == "bad"
    assert "torch sees no GPU here" in finding.remedy


def test_versions_that_were_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = metadata.version("numpy")
    monkeypatch.setattr(machine_checks, "requires", lambda _: [f"numpy=={tested}", "numpy==0.0.1", "absent-thing==1.2"])
    finding = find("versions")
    assert finding.verdict == "poor"
    assert finding.found == f"numpy {tested} (tested: 0.0.1), absent-thing missing (tested: 1.2)"
    assert finding.remedy == "pip install numpy==0.0.1 absent-thing==1.2"


def test_a_rendezvous_whose_name_nobody_knows() -> None:
    finding = find("rendezvous", environment=ProcessEnvironment(0, 0, 2, "no-such-host.invalid", 1, "a test"))
    assert finding.verdict == "bad"
    assert "set MASTER_ADDR to one that can" in finding.remedy


def test_a_disk_that_cannot_be_written() -> None:
    finding = find("disk", "run.directory=/proc/run")
    assert finding.verdict == "bad"
    assert finding.remedy == "choose a run.directory that can be written"


def test_a_disk_without_room(tmp_path: Path) -> None:
    sizes = ["model.num_layers=400", "model.hidden_size=65536", "model.num_heads=1024", f"run.directory={tmp_path}"]
    finding = find("disk room", *sizes)
    assert finding.verdict == "bad"
    assert "lower checkpoint.keep_last" in finding.remedy


def test_shards_that_are_not_there(tmp_path: Path) -> None:
    finding = find("data", f"data.shards={tmp_path / 'none'}")
    assert finding.verdict == "bad"
    assert "make them with two commands" in finding.remedy


def test_what_is_poor_keeps_nobody_from_starting() -> None:
    assert Diagnosis([("a", Finding("x", "slow", "poor", "buy another"))]).is_good
    assert not Diagnosis([("a", Finding("x", "none", "bad", "buy one"))]).is_good


def test_two_processes_measure_their_links(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "-m", "elm_dist", "doctor", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("all-reduce") == 1, "one process speaks"
    found = {finding["subject"]: finding for finding in json.loads(out.read_text())["findings"]}
    assert "2 processes over gloo" in found["all-reduce"]["found"]
    assert found["slowest pair"]["found"].startswith("rank ")
    assert found["clocks"]["verdict"] == "good", "both read one clock"
    assert process_environment().world_size == 1, "and this process is alone again"

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import elm, refused
from safetensors.torch import load_file

from elm_dist.checkpoint.export import export_run
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.config_file import load_config
from elm_dist.errors import CheckpointError
from elm_dist.model.cost import count_parameters
from elm_dist.model.elm import ELM, layer_specs


def checkpoint_of(run: Path, step: int) -> Checkpoint:
    return Checkpoint(run / "checkpoints" / f"step_{step:08d}")


def test_the_averaged_weights_of_the_newest_checkpoint_make_a_whole_model(trained: Path, tmp_path: Path) -> None:
    said = elm("convert", str(trained), "--to", str(tmp_path / "out"))
    assert said.stdout == f"{tmp_path / 'out'}: ema weights of step 6 in fp32 for safetensors\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    config = load_config(trained / "config.yaml")
    ELM(layer_specs(config.model, config.tokenizer.grid)).load_state_dict(tensors)
    checkpoint = checkpoint_of(trained, 6)
    assert all(torch.equal(tensor, checkpoint.read("ema", name, tensor.shape)) for name, tensor in tensors.items())
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (
        facts["parameters"]
        == sum(tensor.numel() for tensor in tensors.values())
        == count_parameters(config.model, config.tokenizer.grid)
    )
    assert (facts["weights"], facts["dtype"], facts["step"], facts["samples_seen"]) == ("ema", "fp32", 6, 48)
    assert facts["model"]["subtoken_bits"] == 4
    assert facts["tokenizer"]["code_bits"] == 8


def test_raw_weights_of_a_step_in_bf16(trained: Path, tmp_path: Path) -> None:
    result = elm("convert", str(trained), "--to", str(tmp_path), "--weights", "raw", "--dtype", "bf16", "--step", "3")
    assert result.code == 0
    checkpoint = checkpoint_of(trained, 3)
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(tensor, checkpoint.read("weights", name, tensor.shape).bfloat16())


def test_large_models_are_divided_and_indexed(trained: Path, tmp_path: Path) -> None:
    limit = 20_000
    export_run(trained, tmp_path, "safetensors", shard_bytes=limit)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3
    assert files == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    total = 0
    for file in files:
        tensors = load_file(tmp_path / file)
        size = sum(4 * tensor.numel() for tensor in tensors.values())
        assert size <= limit or len(tensors) == 1
        assert {index["weight_map"][name] for name in tensors} == {file}
        total += size
    assert index["metadata"]["total_size"] == total
    assert set(index["weight_map"]) == set(checkpoint_of(trained, 6).shapes)


def copy_damaged(trained: Path, copy: Path, kind: str) -> Path:
    shutil.copytree(trained, copy)
    path = copy / "checkpoints" / "step_00000006" / f"{kind}-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    return copy


def test_a_damaged_checkpoint_is_passed_over(trained: Path, tmp_path: Path) -> None:
    run = copy_damaged(trained, tmp_path / "run", "ema")
    assert export_run(run, tmp_path / "out", "safetensors").checkpoint.step == 3
    assert (
        export_run(run, tmp_path / "raw", "safetensors", weights="raw").checkpoint.step == 6
    )  # its own files are good
    with pytest.raises(CheckpointError, match=r"ema-00000\.safetensors is missing or damaged"):
        export_run(run, tmp_path / "named", "safetensors", step=6)
    assert not (tmp_path / "named").exists()


def test_a_folder_that_holds_something_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert f"error: {tmp_path} is not empty; give a new folder" in refused(
        "convert", str(trained), "--to", str(tmp_path)
    )


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    said = refused("convert", str(tmp_path), "--to", str(tmp_path / "out"))
    assert f"error: {tmp_path} is not a run: it has no config.yaml; give the run.directory of a training" in said


def test_a_step_that_is_not_there_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no checkpoint of step 4; it has those of steps 3, 6: train it"):
        export_run(trained, tmp_path, "safetensors", step=4)


def test_a_run_without_a_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(trained / "config.yaml", tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"has no checkpoint; it has none yet: train it further"):
        export_run(tmp_path / "run", tmp_path / "out", "safetensors")

"""A run that begins with the weights of another, on any layout: every bit of them, or one sentence."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import WORKERS, run_processes
from safetensors.torch import load_file
from torch import Tensor
from trained_run import TINY, TRAIN, folders

from elm_dist.checkpoint.model import load_model
from elm_dist.checkpoint.run_folder import choose_checkpoint, load_run_config

LAYOUTS = {
    "zero_3": ["parallel.zero_stage=3"],
    "bf16": ["parallel.precision=bf16", "parallel.zero_stage=1"],
    "larger_images": ["tokenizer.image_size=64", "model.rope_grid=4", "parallel.zero_stage=0"],
    "stages": ["parallel.pipeline_stages=2"],  # last: DeepSpeed then builds no other kind in the same process
}
LEARNED = "model.position_encoding=learned"


def states(run: Path, weights: Any, step: int | None = None) -> dict[str, Tensor]:
    return load_model(choose_checkpoint(run, step), load_run_config(run), weights).state_dict()


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote: of each case a file of facts and one of tensors for each rank."""
    out = tmp_path_factory.mktemp("initial")
    odd = out / "odd"
    shutil.copytree(trained, odd)
    (odd / "config.yaml").write_text((odd / "config.yaml").read_text().replace("num_layers: 2", "num_layers: 3"))
    torn = out / "torn"
    shutil.copytree(trained, torn)
    (torn / "checkpoints" / "step_00000003" / "ema-00000.safetensors").write_bytes(b"torn")
    sources: dict[str, tuple[Path, list[str]]] = {}
    sources["step_3"] = (trained / "checkpoints" / "step_00000003", ["run.init_weights=raw"])
    sources["other_model"] = (trained, ["model.num_classes=5", "model.num_heads=4"])
    sources["other_tensors"] = (odd, ["model.num_layers=3"])
    sources["torn"] = (torn / "checkpoints" / "step_00000003", [])
    sources["nowhere"] = (out / "nowhere", [])
    sources["learned"] = (out / "learned_source", [LEARNED, "tokenizer.image_size=64"])
    sources["no_checkpoint"] = (out / "empty_run", [])
    (out / "empty_run").mkdir()
    shutil.copy(trained / "config.yaml", out / "empty_run")
    save = [f"run.directory={out / 'learned_source'}", LEARNED]
    cases: list[dict[str, Any]] = [{"name": "learned_source", "kind": "save", "overrides": save}]
    shutil.copytree(trained, out / "resumed")
    again = [*folders(trained.parent, out / "resumed"), f"run.init_from={out / 'nowhere'}", "schedule.total_steps=9"]
    cases.append({"name": "resumed", "kind": "resume", "overrides": again})
    sources |= {name: (trained, layout) for name, layout in LAYOUTS.items()}
    cases += [
        {"name": name, "kind": "begin", "overrides": [f"run.init_from={source}", *settings]}
        for name, (source, settings) in sources.items()
    ]
    run_processes(2, [str(WORKERS / "initial_weights_worker.py"), str(out), json.dumps(cases)])
    return out


def read(folder: Path, name: str) -> dict[str, Tensor]:
    return load_file(folder / f"{name}.rank0.safetensors") | load_file(folder / f"{name}.rank1.safetensors")


def errors(folder: Path, name: str) -> list[str]:
    return [json.loads((folder / f"{name}.rank{rank}.json").read_text())["error"] for rank in (0, 1)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_and_averages_are_the_averages_of_the_other_run(folder: Path, trained: Path, name: str) -> None:
    expected, found = states(trained, "ema"), read(folder, name)
    for kind in ("weights", "ema"):
        of_kind = {key.removeprefix(f"{kind}/"): tensor for key, tensor in found.items() if key.startswith(f"{kind}/")}
        assert of_kind.keys() == expected.keys()
        assert all(torch.equal(of_kind[key], tensor) for key, tensor in expected.items())
    assert not any(tensor.any() for key, tensor in found.items() if key.startswith("exp_avg")), "a fresh optimizer"
    for key, tensor in found.items():
        if key.startswith("computing/"):
            assert torch.equal(tensor, expected[key.removeprefix("computing/")].to(tensor.dtype))


def test_the_raw_weights_of_a_step_can_be_named(folder: Path, trained: Path) -> None:
    expected, found = states(trained, "raw", step=3), read(folder, "step_3")
    assert all(torch.equal(found[f"ema/{key}"], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "other_model",
            r"run is another model: model\.num_heads is 2 there and 4 here, model\.num_classes is 4 there and 5 here; ",
        ),
        (
            "other_tensors",
            r"init_from: the tensors of .*odd are not those of this run's model: block_2\.attention\.output\.weight is "
            r"missing and should be \(32, 32\), .*, and \d more",
        ),
        ("nowhere", r"nowhere is neither a run, with a config\.yaml, nor the folder of one of its checkpoints; name"),
        ("learned", r"has 16 learned positions, and this run needs 64; learned ones cannot grow: keep tokenizer\.imag"),
        ("no_checkpoint", r"empty_run has no checkpoint yet; train it further, or name another"),
    ],
)
def test_what_cannot_be_begun_with_is_one_sentence_on_every_rank(folder: Path, name: str, message: str) -> None:
    said = errors(folder, name)
    assert said[0] == said[1]
    assert re.search(message, said[0]), said[0]


def test_damage_that_one_rank_finds_stops_all(folder: Path) -> None:
    one, other = errors(folder, "torn")
    assert "ema-00000.safetensors is missing or damaged" in one
    assert "step_00000003 is damaged, as another rank found; name another" in other


def test_a_run_that_goes_on_does_not_begin_again(folder: Path) -> None:
    assert json.loads((folder / "resumed.rank0.json").read_text()) == {"step": 6}


@pytest.mark.slow
def test_the_door_takes_it_as_a_setting(trained: Path, tmp_path: Path) -> None:
    """With a learning rate that moves nothing, what is saved after a step is what the run began with."""
    still = ["optimizer.learning_rate=1e-30", "schedule.total_steps=1", "monitoring.validation_every=0"]
    overrides = [*folders(trained.parent, tmp_path / "run"), f"run.init_from={trained}", *still]
    command = [sys.executable, str(TRAIN), "--config", str(TINY), *overrides, "monitoring.sample_every=0"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"begins with the ema weights of step 6 of {trained}" in result.stderr
    expected = states(trained, "ema")
    for weights in ("ema", "raw"):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in states(tmp_path / "run", weights).items())

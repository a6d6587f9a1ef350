"""What `elm export RUN --to safetensors` wrote loads back to the bit, and nothing else loads at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from elm_dist.checkpoint.export import export_run
from elm_dist.checkpoint.model import load_model
from elm_dist.checkpoint.pretrained import load_pretrained
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.checkpoint.stream import DTYPES
from elm_dist.config_file import load_config
from elm_dist.errors import CheckpointError
from elm_dist.model.elm import ELM

SHARD_BYTES = 60_000  # a few files
INDEX = "model.safetensors.index.json"
AGAIN = "; copy the whole folder again, or export anew with `elm export RUN --to safetensors`"


@pytest.fixture
def ours(trained: Path) -> ELM:
    checkpoint = Checkpoint(trained / "checkpoints" / "step_00000006")
    return load_model(checkpoint, load_config(trained / "config.yaml"), "ema")


@pytest.fixture
def exported(trained: Path, tmp_path: Path) -> Path:
    export_run(trained, tmp_path / "out", "safetensors")
    return tmp_path / "out"


@pytest.fixture
def sharded(trained: Path, tmp_path: Path) -> Path:
    export_run(trained, tmp_path / "out", "safetensors", shard_bytes=SHARD_BYTES)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    return tmp_path / "out"


@pytest.mark.parametrize("shard_bytes", [SHARD_BYTES, 10**9])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_weights_are_those_of_the_run(
    trained: Path, ours: ELM, tmp_path: Path, dtype: Any, shard_bytes: int
) -> None:
    export_run(trained, tmp_path / "out", "safetensors", dtype=dtype, shard_bytes=shard_bytes)
    loaded = load_pretrained(str(tmp_path / "out")).state_dict()
    expected = ours.to(DTYPES[dtype]).state_dict()
    assert list(loaded) == list(expected)
    assert all(tensor.dtype == DTYPES[dtype] for tensor in loaded.values())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())


def test_the_model_computes_what_that_of_the_run_does(ours: ELM, exported: Path) -> None:
    model = load_pretrained(exported)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    batch = (torch.randint(256, (2, 16), dtype=torch.uint8), torch.tensor([0, 4]))
    assert torch.equal(model(batch), ours(batch))


def test_the_model_can_have_gradients(exported: Path) -> None:
    model = load_pretrained(exported).requires_grad_()
    model((torch.zeros((1, 16), dtype=torch.uint8), torch.tensor([0]))).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError) as error:
        load_pretrained(folder)
    assert str(error.value) == message.format(folder=folder) + AGAIN


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "out", Path(__file__)):
        message = rf"^{path}: there is no such folder; give one that `elm export RUN --to safetensors` wrote$"
        with pytest.raises(CheckpointError, match=message):
            load_pretrained(path)


def test_a_folder_that_lacks_a_file(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    refused(sharded, f"{{folder}}: {shard.name}, which {INDEX} names, is missing")
    (sharded / INDEX).unlink()
    refused(sharded, f"{{folder}}: there is neither model.safetensors nor {INDEX}")
    (sharded / "config.json").unlink()
    refused(sharded, "{folder}: config.json is missing")


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 3}', '{"metadata": {}}'])
def test_an_index_that_is_none(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    refused(sharded, f"{{folder}}/{INDEX}: this is no index of weights")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tokenizer": 3}', "\0"])
def test_a_description_that_is_none(exported: Path, text: str) -> None:
    (exported / "config.json").write_text(text)
    refused(exported, "{folder}/config.json: this is no description of a model of ours")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda tree: tree["model"].update(num_layer=3),
            "it describes no model that this elm-dist knows: model.num_layer: extra inputs are not permitted",
        ),
        (lambda tree: tree.pop("model"), "it describes no model that this elm-dist knows: model: field required"),
        (
            lambda tree: tree.update(dtype="fp8"),
            "it describes no model that this elm-dist knows: dtype: input should be 'fp32' or 'bf16'",
        ),
        (
            lambda tree: tree["model"].update(num_heads=3),
            "model.num_heads: 3 heads do not divide hidden_size 32; choose a divisor of it",
        ),
    ],
)
def test_a_description_of_no_model(exported: Path, change: Callable[[dict[str, Any]], None], problem: str) -> None:
    tree = json.loads((exported / "config.json").read_text())
    change(tree)
    (exported / "config.json").write_text(json.dumps(tree))
    refused(exported, f"{{folder}}/config.json: {problem}")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda tensors: tensors.pop("head.norm.weight"),
            "its tensors are not those of the model in config.json: head.norm.weight is missing and should be (32,)",
        ),
        (
            lambda tensors: tensors.update(bias=torch.zeros(2)),
            "its tensors are not those of the model in config.json: bias is (2,) and should be absent",
        ),
        (
            lambda tensors: tensors.update({"head.norm.weight": torch.zeros(3)}),
            "its tensors are not those of the model in config.json: head.norm.weight is (3,) and should be (32,)",
        ),
        (
            lambda tensors: tensors.update({"head.norm.weight": torch.zeros(32, dtype=torch.float16)}),
            "head.norm.weight is torch.float16 and should be torch.float32, as config.json says",
        ),
    ],
)
def test_other_tensors(exported: Path, change: Callable[[dict[str, torch.Tensor]], None], problem: str) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(exported / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, exported / "model.safetensors")
    refused(exported, f"{{folder}}: {problem}")


def test_an_export_of_other_names(trained: Path, tmp_path: Path) -> None:
    export_run(trained, tmp_path / "out", "official")
    with pytest.raises(CheckpointError, match=r"its tensors are not those of the model in config.json: block_0\."):
        load_pretrained(tmp_path / "out")


def test_a_damaged_file(exported: Path) -> None:
    weights = exported / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=rf"^{weights}: this file is damaged \(.+\){AGAIN}$"):
        load_pretrained(exported)

"""A tokenizer's folder: there and back, its fingerprint, and one clear sentence for each way it can be wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from elm_dist.checkpoint.tokenizer import (
    check_tokenizer_fits,
    has_tokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_fingerprint,
)
from elm_dist.config import TokenizerConfig
from elm_dist.errors import TokenizerError
from elm_dist.tokenizers.bae import BAE


def build_config(directory: Path, **changes: Any) -> TokenizerConfig:
    settings: dict[str, Any] = {
        "code_bits": 6,
        "image_size": 16,
        "patch_size": 2,
        "base_channels": 32,
        "channel_multipliers": (1, 2),
        "res_blocks": 1,
        "attention_resolutions": (4,),
        "embedding_channels": 32,
    }
    return TokenizerConfig(directory=directory, **settings | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = build_config(tmp_path / "tokenizer")
    save_tokenizer(config.directory, BAE(config), config)
    return config.directory


def test_there_and_back(tmp_path: Path) -> None:
    config = build_config(tmp_path / "deep" / "tokenizer")
    bae = BAE(config).train()
    assert not has_tokenizer(config.directory)
    save_tokenizer(config.directory, bae, config)
    assert has_tokenizer(config.directory)
    assert sorted(path.name for path in config.directory.iterdir()) == ["config.json", "model.safetensors"]
    loaded = load_tokenizer(config.directory, "cpu")
    assert loaded.config == config
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.image_codes(images), bae.image_codes(images))
    torch.testing.assert_close(loaded.encode(images), bae.encode(images), atol=0, rtol=0)


def test_a_moved_folder_is_the_same_tokenizer(folder: Path, tmp_path: Path) -> None:
    before = tokenizer_fingerprint(folder)
    assert len(before) == 64
    moved = folder.rename(tmp_path / "moved")
    assert tokenizer_fingerprint(moved) == before
    assert load_tokenizer(moved, "cpu").config.directory == moved
    assert str(folder) not in (moved / "config.json").read_text()


def test_the_fingerprint_sees_weights_and_architecture_but_not_layout(folder: Path) -> None:
    before = tokenizer_fingerprint(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(dict(reversed(config.items()))))
    assert tokenizer_fingerprint(folder) == before
    (folder / "config.json").write_text(json.dumps(config | {"quantization": "deterministic"}))
    assert tokenizer_fingerprint(folder) != before
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    tensors["project.bias"][0] += 1e-3
    save_file(tensors, folder / "model.safetensors")
    assert tokenizer_fingerprint(folder) != before


def test_a_tokenizer_that_fits(folder: Path, tmp_path: Path) -> None:
    check_tokenizer_fits(folder, build_config(tmp_path / "another name for the place"))


def test_a_tokenizer_that_does_not_fit(folder: Path) -> None:
    wanted = build_config(folder, code_bits=8, channel_multipliers=(1, 1))
    message = (
        r"tokenizer: this tokenizer is not the one that the configuration describes: channel_multipliers is \[1, 2\] "
        r"there and \[1, 1\] here, code_bits is 6 there and 8 here; change the section `tokenizer:` to what is stored, "
        "or set tokenizer.directory to another folder"
    )
    with pytest.raises(TokenizerError, match=message):
        check_tokenizer_fits(folder, wanted)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_file_is_missing(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    message = f"there is no complete tokenizer, {missing} is missing; train one with `elm tokenizer train`, or set "
    for use in (lambda: load_tokenizer(folder, "cpu"), lambda: tokenizer_fingerprint(folder)):
        with pytest.raises(TokenizerError, match=message):
            use()


def test_the_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"nowhere: there is no complete tokenizer, model\.safetensors is missing"):
        load_tokenizer(tmp_path / "nowhere", "cpu")


@pytest.mark.parametrize("content", ["{", "[]", '{"code_bits": 6, "colour": 3}', '{"code_bits": 0}'])
def test_a_damaged_config(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"config\.json: this file is damaged \(.*\); copy it again"):
        load_tokenizer(folder, "cpu")


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_damaged_weights(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TokenizerError, match=r"model\.safetensors: this file is damaged \(.*\); copy it again"):
        load_tokenizer(folder, "cpu")


def test_weights_of_another_tokenizer(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["embed.weight"]
    tensors["project.bias"] = torch.zeros(7)
    tensors["extra"] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors")
    message = (
        r"its tensors do not fit the config\.json beside it: embed\.weight is missing and should be \(6, 32\), extra "
        r"is \(1,\) and should be absent, project\.bias is \(7,\) and should be \(6,\); bring together the two files"
    )
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(folder, "cpu")


def test_only_the_first_odd_tensors_are_listed(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = dict(list(tensors.items())[:4])
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(TokenizerError, match=f", and {len(tensors) - 4 - 3} more; bring together"):
        load_tokenizer(folder, "cpu")


def test_saving_replaces_at_once(folder: Path) -> None:
    before = load_tokenizer(folder, "cpu")  # its tensors may still be mapped from the file that is replaced
    weights = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    config = build_config(folder)
    save_tokenizer(folder, BAE(config), config)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in before.state_dict().items())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]

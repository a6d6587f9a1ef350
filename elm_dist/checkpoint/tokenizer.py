"""A trained tokenizer as a folder: `config.json`, its architecture, and `model.safetensors`, its weights.

`model.safetensors` is written last, so a folder that has it is complete. Knows nothing of how it was trained.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from elm_dist.config import TokenizerConfig
from elm_dist.errors import TokenizerError
from elm_dist.files import replace_text, replacing
from elm_dist.tokenizers.build import Tokenizer, build_tokenizer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def has_tokenizer(directory: Path) -> bool:
    return (directory / WEIGHTS_FILE).is_file()


def save_tokenizer(directory: Path, tokenizer: Tokenizer, config: TokenizerConfig) -> None:
    """Write the tokenizer into `directory`, replacing one that is there."""
    directory.mkdir(parents=True, exist_ok=True)
    replace_text(directory / CONFIG_FILE, json.dumps(architecture(config), indent=2) + "\n")
    replace_tensors(directory / WEIGHTS_FILE, tokenizer.state_dict())


def load_tokenizer(directory: Path, device: torch.device | str) -> Tokenizer:
    """Return the tokenizer in `directory` on `device`, in evaluation mode and without gradients.

    Raises TokenizerError if the folder or a file of it is missing or damaged, or if the two do not fit each other.
    """
    config = load_tokenizer_config(directory)
    path = directory / WEIGHTS_FILE
    try:
        tensors = load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    with torch.device("meta"):  # so that no weights are drawn only to be replaced
        tokenizer = build_tokenizer(config)
    if odd := describe_odd_tensors(tensors, tokenizer.state_dict()):
        raise TokenizerError(
            f"{path}: its tensors do not fit the {CONFIG_FILE} beside it: {odd}; bring together the two files of one "
            "tokenizer, or train it anew with `elm tokenizer train`"
        )
    tokenizer.load_state_dict(tensors, assign=True)
    return tokenizer.eval().requires_grad_(False)


def load_tokenizer_config(directory: Path) -> TokenizerConfig:
    """Return the architecture of the tokenizer in `directory`; raises TokenizerError if there is none."""
    path = directory / CONFIG_FILE
    if not has_tokenizer(directory) or not path.is_file():
        missing = path if has_tokenizer(directory) else directory / WEIGHTS_FILE
        raise TokenizerError(
            f"{directory}: there is no complete tokenizer, {missing.name} is missing; train one with "
            "`elm tokenizer train`, or set tokenizer.directory to the folder of one"
        )
    try:
        return TokenizerConfig.model_validate(json.loads(path.read_text(encoding="utf-8")) | {"directory": directory})
    except (OSError, TypeError, json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise _unreadable(path, error) from None


def check_tokenizer_fits(directory: Path, tokenizer: TokenizerConfig) -> None:
    """Raise TokenizerError, naming each key that differs, unless what `directory` holds is built as `tokenizer`."""
    stored = architecture(load_tokenizer_config(directory))
    if differences := describe_differences(stored, architecture(tokenizer)):
        raise TokenizerError(
            f"{directory}: this tokenizer is not the one that the configuration describes: {differences}; change the "
            "section `tokenizer:` to what is stored, or set tokenizer.directory to another folder"
        )


def tokenizer_fingerprint(directory: Path) -> str:
    """Return 64 hex digits (sha256) that change with any weight and with the architecture, but not with the place.

    Raises TokenizerError if there is no tokenizer.
    """
    canonical = json.dumps(architecture(load_tokenizer_config(directory)), sort_keys=True, separators=(",", ":"))
    with (directory / WEIGHTS_FILE).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(canonical.encode())
    return digest.hexdigest()


def architecture(config: TokenizerConfig) -> dict[str, Any]:
    """Return what makes a tokenizer what it is, as JSON knows it: everything but the place where it lies."""
    return config.model_dump(mode="json", exclude={"directory"})


def describe_differences(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Return "width is 2 there and 3 here, ..." for the keys whose values differ; "" if none does."""
    keys = sorted(key for key in stored.keys() | wanted.keys() if stored.get(key) != wanted.get(key))
    return ", ".join(f"{key} is {stored.get(key)} there and {wanted.get(key)} here" for key in keys)


def replace_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file that is at no time half written."""
    with replacing(path) as scratch:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, scratch)


def describe_odd_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """Return "weight is (2,) and should be (3,), ..." for tensors of other names or shapes; "" if there are none."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    odd = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    listed = (f"{name} is {found.get(name, 'missing')} and should be {wanted.get(name, 'absent')}" for name in odd[:3])
    return ", ".join(listed) + (f", and {len(odd) - 3} more" if len(odd) > 3 else "")


def _unreadable(path: Path, error: Exception) -> TokenizerError:
    reason = " ".join(str(error).split())
    return TokenizerError(
        f"{path}: this file is damaged ({reason}); copy it again, or train anew with `elm tokenizer train`"
    )

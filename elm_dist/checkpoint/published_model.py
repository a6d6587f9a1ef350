"""What the names and shapes of a published transformer tell of it: sizes, sub-tokens, classes, and what it predicts.

They do not tell how many heads there are: 64 channels each in all published models. Knows nothing of runs.
"""

import re
from itertools import count, takewhile
from pathlib import Path

from pydantic import ValidationError

from elm_dist.checkpoint.layouts import Tensors
from elm_dist.checkpoint.model_layouts import UNUSED_POSITIONS
from elm_dist.config import ModelConfig
from elm_dist.errors import CheckpointError

HEAD_SIZE = 64  # channels
SIGNS = ("cls_embedding.", "tok_embedder.")  # which no tokenizer has
AGAIN = "download the file again"


def is_transformer(tensors: Tensors) -> bool:
    """Return whether these are the tensors of ELM's transformer, or some of them."""
    return any(name.startswith(SIGNS) for name in tensors)


def derive_model(path: Path, tensors: Tensors, heads: int | None = None) -> ModelConfig:
    """Return which model these tensors of the file `path` make, of `heads` heads where they are not of 64 channels.

    Raises CheckpointError for a tensor that is missing, and for shapes that make no model.
    """
    try:
        return _derive_model(path, tensors, heads)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: its tensors are not those of ELM's transformer: {error.args[0]} is missing; {AGAIN}"
        ) from None
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, each['loc']))} {each['msg'].lower()}" for each in error.errors())
        raise CheckpointError(f"{path}: its shapes make no transformer: {reasons}; {AGAIN}") from None
    except CheckpointError:  # a ValueError, too
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: its shapes make no transformer: {error}; {AGAIN}") from None


def _derive_model(path: Path, tensors: Tensors, heads: int | None) -> ModelConfig:
    classes, hidden_size = tensors["cls_embedding.embedding_table.weight"].shape
    subtokens = len(list(takewhile(lambda index: f"tok_embedder.{index}.weight" in tensors, count()))) or 1
    table = "tok_embedder.weight" if subtokens == 1 else "tok_embedder.0.weight"
    is_masked = any(name.startswith("mlm_layer.") for name in tensors)
    entries = len(tensors[table]) - is_masked  # without that of the mask token
    if entries < 2 or entries & (entries - 1):
        raise ValueError(f"{table} has {entries} entries for codes, which is no power of two")
    if heads is None and hidden_size % HEAD_SIZE:
        raise CheckpointError(
            f"{path}: it has {hidden_size} channels, which are no heads of {HEAD_SIZE}, as all published models have; "
            "say how many heads it has with --heads"
        )
    layers = {int(found[1]) for name in tensors if (found := re.match(r"layers\.(\d+)\.", name))}
    return ModelConfig(
        num_layers=len(layers),
        hidden_size=hidden_size,
        num_heads=hidden_size // HEAD_SIZE if heads is None else heads,
        subtokens=subtokens,
        subtoken_bits=entries.bit_length() - 1,
        num_classes=classes - 1,  # the last is the null class
        modelling="masked" if is_masked else "autoregressive",
    )


def is_unused(model: ModelConfig, name: str) -> bool:
    """Return whether a published tensor is known to take no part: masked models have some."""
    return model.modelling == "masked" and (name == UNUSED_POSITIONS or name.startswith("output."))

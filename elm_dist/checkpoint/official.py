"""Imports published tokenizer weights into a folder of ours.

The layout is known by its keys, the architecture follows from the shapes, and every tensor must be accounted for.
"""

from pathlib import Path

import torch
from pydantic import ValidationError

from elm_dist.checkpoint.layouts import LAYOUTS, Layout, Tensors
from elm_dist.checkpoint.published import Published
from elm_dist.checkpoint.tokenizer import describe_odd_tensors, has_tokenizer, save_tokenizer
from elm_dist.config import TokenizerConfig
from elm_dist.config_rules.every_rule import broken_rules
from elm_dist.errors import TokenizerError
from elm_dist.tokenizers.build import build_tokenizer


def import_tokenizer(published: Published, out: Path, image_size: int) -> TokenizerConfig:
    """Write a published tokenizer into the folder `out`; return its architecture.

    `image_size` is that of its training, in pixels per side; no tensor tells it. Raises TokenizerError for a file of no
    known layout, with tensors missing or left over, and where `out` holds a tokenizer already; CheckpointError for
    whole numbers.
    """
    path, tensors = published.path, published.averaged
    if has_tokenizer(out):
        raise TokenizerError(f"{out}: there is a tokenizer already; give another folder, or delete this one")
    layout = _recognise(path, tensors)
    config = _derive_config(path, tensors, layout, out, image_size)
    publish = layout.publisher(config)
    with torch.device("meta"):
        tokenizer = build_tokenizer(config)
    expected = {publish(name): tensor for name, tensor in tokenizer.state_dict().items()}
    found = {name: tensor for name, tensor in tensors.items() if name in expected or not layout.is_unused(name)}
    if odd := describe_odd_tensors(found, expected):
        raise TokenizerError(f"{path}: its tensors are not those of {layout.name}: {odd}; download the file again")
    weights = published.floats(tensors, {name: publish(name) for name in tokenizer.state_dict()})
    tokenizer.load_state_dict(weights, assign=True)
    save_tokenizer(out, tokenizer, config)
    return config


def _recognise(path: Path, tensors: Tensors) -> Layout:
    for layout in LAYOUTS:
        if layout.is_of(tensors):
            return layout
    begins = ", ".join(list(tensors)[:3]) or "no tensor"
    raise TokenizerError(
        f"{path}: nothing that can be imported, it begins with {begins}; give a file of ELM's transformer, or of a "
        f"tokenizer: {', '.join(layout.name for layout in LAYOUTS)}"
    )


def _derive_config(path: Path, tensors: Tensors, layout: Layout, out: Path, image_size: int) -> TokenizerConfig:
    try:
        sizes = layout.sizes(tensors, image_size)
        config = TokenizerConfig.model_validate({"directory": out, "image_size": image_size} | sizes)
    except KeyError as error:
        raise TokenizerError(
            f"{path}: its tensors are not those of {layout.name}: {error.args[0]} is missing; download the file again"
        ) from None
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, each['loc']))} {each['msg'].lower()}" for each in error.errors())
        raise TokenizerError(f"{path}: its shapes make no tokenizer: {reasons}; download the file again") from None
    except (TypeError, ValueError) as error:  # a tensor of too few dimensions
        raise TokenizerError(f"{path}: its shapes make no tokenizer: {error}; download the file again") from None
    for where, problem in broken_rules({"tokenizer": config}):
        raise TokenizerError(f"{path}: cannot be imported with --image-size {image_size}: {where}: {problem}")
    return config

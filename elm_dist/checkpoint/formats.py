"""What each format of an export can hold, and the one sentence for a model that it cannot. Needs no torch."""

from collections.abc import Iterator
from typing import Any, Literal

from elm_dist.config import Config
from elm_dist.errors import CheckpointError

Target = Literal["safetensors", "huggingface", "llama", "official"]

# By a setting of `model:`, the values that a format knows; what is not listed may be anything.
HELD: dict[Target, dict[str, tuple[Any, ...]]] = {
    "safetensors": {},
    "official": {
        "scan": ("row_raster",),
        "position_encoding": ("rope_2d",),
        "rope_grid": (0,),
        "conditioning": ("token",),
        "attention": ("dot_product",),
        "key_value_heads": (0,),
        "qk_norm": (False,),
        "subtoken_prediction": ("parallel",),
    },
    "huggingface": {
        "modelling": ("autoregressive",),
        "subtoken_prediction": ("parallel",),
        "position_encoding": ("rope_2d", "rope_1d"),
        "conditioning": ("token",),
        "attention": ("dot_product",),
    },
    "llama": {
        "modelling": ("autoregressive",),
        "subtokens": (1,),
        "position_encoding": ("rope_1d",),
        "rope_grid": (0,),
        "conditioning": ("token",),
        "attention": ("dot_product",),
        "qk_norm": (False,),
    },
}


def check_holds(target: Target, config: Config) -> None:
    """Raise CheckpointError, naming the first setting that `target` has no place for, if there is one."""
    for is_of, allowed in _refusals(target, config):
        raise CheckpointError(
            f"--to {target} has no place for a model of {is_of}, only for {allowed}; use --to safetensors, which holds "
            "every model"
        )


def _refusals(target: Target, config: Config) -> Iterator[tuple[str, str]]:
    """Yield (what the model is, what the format knows)."""
    model, grid = config.model, config.tokenizer.grid
    settings = model.model_dump()
    if model.key_value_heads == model.num_heads:
        settings["key_value_heads"] = 0  # one for each head, in other words
    if model.rope_grid == max(grid):
        settings["rope_grid"] = 0  # squeezed into as much as there is
    for name, held in HELD[target].items():
        if settings[name] not in held:
            yield _setting(name, settings[name]), " or ".join(_setting(name, value) for value in held)
    if target == "official" and model.modelling == "masked" and model.subtokens > 1:
        yield (
            f"{_setting('modelling', 'masked')} and {_setting('subtokens', model.subtokens)}",
            _setting("subtokens", 1),
        )
    if target == "official" and grid.rows != grid.columns:
        yield f"{grid} codes", "a square grid"


def _setting(name: str, value: object) -> str:
    return f"model.{name}={str(value).lower()}"

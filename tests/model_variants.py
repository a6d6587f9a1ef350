"""The variants of the model, alone and together, in sizes that compute at once."""

from typing import Any

import torch
from torch import Tensor

from elm_dist.config import Grid, ModelConfig
from elm_dist.model.elm import ELM, code_shape, initialize, layer_specs
from elm_dist.model.masking import row_bytes

GRID = Grid(3, 4)
SIZES = {"num_layers": 3, "hidden_size": 32, "num_heads": 4, "subtokens": 2, "subtoken_bits": 5, "num_classes": 7}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "masked": {"modelling": "masked"},
    "adaptive": {"conditioning": "adaln"},
    "cosine": {"attention": "cosine"},
    "normed": {"qk_norm": True},
    "grouped": {"key_value_heads": 2},
    "one_key": {"key_value_heads": 1},
    "rope_1d": {"position_encoding": "rope_1d"},
    "learned": {"position_encoding": "learned"},
    "squeezed": {"rope_grid": 2},
    "diagonal": {"scan": "diagonal_zigzag"},
    "sequential": {"subtoken_prediction": "sequential"},
    "sequential_three": {"subtoken_prediction": "sequential", "subtokens": 3, "qk_norm": True},
    "several": {"conditioning": "adaln", "attention": "cosine", "key_value_heads": 2, "position_encoding": "rope_1d"},
    "several_masked": {
        "modelling": "masked", "conditioning": "adaln", "qk_norm": True, "key_value_heads": 2,
        "position_encoding": "learned", "subtokens": 1,
    },
}  # fmt: skip


def describe(name: str, **options: Any) -> ModelConfig:
    return ModelConfig(**SIZES | VARIANTS[name] | options)


def build(model: ModelConfig, seed: int = 0) -> ELM:
    """Return a model none of whose weights is zero, so that each part of it counts."""
    elm = ELM(layer_specs(model, GRID))
    initialize(elm.named_parameters(), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in elm.named_parameters():
        if "norm" not in name and "scale" not in name:
            torch.nn.init.normal_(parameter, 0, 0.1, generator=generator)
    return elm.eval()


def random_batch(model: ModelConfig, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    size = (batch, row_bytes(model, code_shape(model, GRID)))
    rows = torch.randint(0, 256, size, generator=generator).to(torch.uint8)
    return rows, torch.randint(0, model.num_classes + 1, (batch,), generator=generator)

"""Reads the golden tensors of the published implementation in `tests/golden/` (see its README)."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from elm_dist.checkpoint.model_layouts import official_names
from elm_dist.config import Grid, ModelConfig
from elm_dist.model.elm import ELM, layer_specs

GOLDEN = Path(__file__).parent / "golden"


def load_golden_elm(name: str) -> tuple[ELM, ModelConfig, dict[str, Tensor], Grid]:
    """Return the model in eval mode, its configuration, the expected tensors and the grid."""
    note: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    keys = ["num_layers", "hidden_size", "num_heads", "subtokens", "subtoken_bits", "num_classes"]
    modelling = {"ar": "autoregressive", "mlm": "masked"}[note["kind"]]
    model = ModelConfig(modelling=modelling, **{key: note[key] for key in keys})
    grid = Grid(note["grid"], note["grid"])
    elm = ELM(layer_specs(model, grid))
    weights = load_file(GOLDEN / f"{name}.weights.safetensors")
    shapes = {name: tensor.shape for name, tensor in elm.state_dict().items()}
    tensors = {ours: weights.pop(published) for ours, published in official_names(model).items()}
    elm.load_state_dict({name: tensor.view(shapes[name]) for name, tensor in tensors.items()})
    assert not weights.keys() - {"pos_embed.weight"}  # which the published masked models have, and do not use
    return elm.eval(), model, load_file(GOLDEN / f"{name}.tensors.safetensors"), grid

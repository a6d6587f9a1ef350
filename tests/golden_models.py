"""Reads the golden tensors of the published implementation in `tests/golden/` (see its README)."""

import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from elm_dist.config import ModelConfig
from elm_dist.model.elm import ELM, layer_specs

GOLDEN = Path(__file__).parent / "golden"

RENAMES = [
    (r"cls_embedding\.embedding_table", "embedding.classes"),
    (r"tok_embedder\.(\d+)", r"embedding.codes.\1"),
    (r"tok_embedder\.weight", "embedding.codes.0.weight"),
    (r"proj\.", "embedding.project."),
    (r"layers\.(\d+)\.", r"block_\1."),
    (r"attention\.wqkv", "attention.qkv"),
    (r"attention\.wo", "attention.output"),
    (r"feed_forward\.w1", "feed_forward.gate"),
    (r"feed_forward\.w2", "feed_forward.down"),
    (r"feed_forward\.w3", "feed_forward.up"),
    (r"ffn_norm", "feed_forward_norm"),
    (r"^output\.(\d+)", r"head.outputs.\1"),
    (r"^output\.weight", "head.outputs.0.weight"),
    (r"^norm", "head.norm"),
]


def load_golden_elm(name: str) -> tuple[ELM, ModelConfig, dict[str, Tensor], int]:
    """Return the model in eval mode, its configuration, the expected tensors and the grid."""
    note: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    keys = ["num_layers", "hidden_size", "num_heads", "subtokens", "subtoken_bits", "num_classes"]
    model = ModelConfig(**{key: note[key] for key in keys})
    elm = ELM(layer_specs(model, note["grid"]))
    weights = load_file(GOLDEN / f"{name}.weights.safetensors")
    elm.load_state_dict({canonical_name(key): tensor for key, tensor in weights.items()})
    return elm.eval(), model, load_file(GOLDEN / f"{name}.tensors.safetensors"), note["grid"]


def canonical_name(published: str) -> str:
    for pattern, replacement in RENAMES:
        published = re.sub(pattern, replacement, published)
    return published

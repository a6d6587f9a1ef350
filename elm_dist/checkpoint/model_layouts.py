"""The layouts of the transformer's weights: what others call each tensor, and how it is made of ours.

Knows nothing of files. The tokenizers' layouts are in `layouts.py`.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from elm_dist.config import Grid, ModelConfig
from elm_dist.model.elm import ELM, layer_specs

Read = Callable[[str], Tensor]  # gives a tensor of ours by its name
ModelLayout = dict[str, Callable[[Read], Tensor]]  # by the name of a tensor, how it is made


def own_layout(model: ModelConfig, grid: Grid) -> ModelLayout:
    """Return the layout of our own names, which checkpoints and safetensors files of ours have: any model's."""
    return {name: partial(_named, name) for name in meta_tensors(model, grid)}


def meta_tensors(model: ModelConfig, grid: Grid) -> dict[str, Tensor]:
    """Return the tensors of a model by name, which have shapes and no values."""
    with torch.device("meta"):
        return ELM(layer_specs(model, grid)).state_dict()


def official_layout(model: ModelConfig, grid: Grid) -> ModelLayout:
    """Return the layout of the published weights, all of whose tensors are ours under other names, but for one.

    The published masked models have learned positions beside the rotary ones, of which they make no use.
    """
    layout: ModelLayout = {
        published: partial(_shaped_as, published, name) for name, published in official_names(model).items()
    }
    if model.modelling == "masked":
        layout[UNUSED_POSITIONS] = partial(_zeros, (grid.cells, model.hidden_size))
    return layout


def official_names(model: ModelConfig) -> dict[str, str]:
    """Return what the published weights call each tensor of ours, in the order of the layers.

    A lone sub-token's table and head have no number, and no projection. Only for a model that `formats.py` lets pass.
    """
    numbers = [f".{index}" for index in range(model.subtokens)] if model.subtokens > 1 else [""]
    names = {"embedding.classes": "cls_embedding.embedding_table"}
    names |= {f"embedding.codes.{index}": f"tok_embedder{number}" for index, number in enumerate(numbers)}
    names |= {"embedding.project": "proj"} if model.subtokens > 1 else {}
    for index in range(model.num_layers):
        names |= {f"block_{index}.{ours}": f"layers.{index}.{theirs}" for ours, theirs in _OFFICIAL_BLOCK.items()}
    names["head.norm"] = "norm"
    if model.modelling == "autoregressive":
        names |= {f"head.outputs.{index}": f"output{number}" for index, number in enumerate(numbers)}
    weights = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in names.items()}
    return weights if model.modelling == "autoregressive" else weights | _OFFICIAL_MASKED_HEAD


UNUSED_POSITIONS = "pos_embed.weight"
BIASES = "mlm_layer.bias"  # one for each entry, (1, 1, entries) there, a vector here
_OFFICIAL_MASKED_HEAD = {
    "head.transform.weight": "mlm_layer.fc.weight",
    "head.transform.bias": "mlm_layer.fc.bias",
    "head.transform_norm.weight": "mlm_layer.ln.weight",
    "head.transform_norm.bias": "mlm_layer.ln.bias",
    "head.biases.0": BIASES,
}
_OFFICIAL_BLOCK = {
    "attention_norm": "attention_norm",
    "attention.qkv": "attention.wqkv",
    "attention.output": "attention.wo",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "feed_forward.w1",
    "feed_forward.up": "feed_forward.w3",
    "feed_forward.down": "feed_forward.w2",
}


def huggingface_layout(model: ModelConfig) -> ModelLayout:
    """Return the layout of `huggingface/modeling_elm.py`: a Llama's, with one table of all codes and classes."""
    tables = [f"embedding.codes.{index}.weight" for index in range(model.subtokens)]
    heads = [f"head.outputs.{index}.weight" for index in range(model.subtokens)]
    layout: ModelLayout = {
        "model.embed_tokens.weight": partial(_joined, [*tables, "embedding.classes.weight"]),
        "model.norm.weight": partial(_named, "head.norm.weight"),
        "lm_head.weight": partial(_joined, heads),
    }
    if model.subtokens > 1:
        layout["model.embed_tokens.project.weight"] = partial(_named, "embedding.project.weight")
    rows = {"q_proj": model.hidden_size, "k_proj": model.key_value_size, "v_proj": model.key_value_size}
    for index in range(model.num_layers):
        ours, theirs, first = f"block_{index}", f"model.layers.{index}", 0
        for name, count in rows.items():
            head_size = model.head_size if name != "v_proj" else None
            make = partial(_rows, f"{ours}.attention.qkv.weight", slice(first, first + count), head_size)
            layout[f"{theirs}.self_attn.{name}.weight"] = make
            first += count
        if model.qk_norm:
            for name, norm in (("q_proj", "query_norm"), ("k_proj", "key_norm")):
                norm = f"{ours}.attention.similarity.{norm}.weight"
                layout[f"{theirs}.self_attn.{name}.norm.weight"] = partial(_rows, norm, slice(None), model.head_size)
        for our_part, their_part in _LLAMA_BLOCK.items():
            layout[f"{theirs}.{their_part}.weight"] = partial(_named, f"{ours}.{our_part}.weight")
    return layout


def llama_layout(model: ModelConfig) -> ModelLayout:
    """Return the layout of a plain Llama, whose head has rows for classes, too: zeros, as nothing ever predicts one."""
    return huggingface_layout(model) | {
        "lm_head.weight": partial(_with_rows_of_zeros, "head.outputs.0.weight", model.num_classes + 1)
    }


_LLAMA_BLOCK = {
    "attention_norm": "input_layernorm",
    "attention.output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}


def _named(name: str, read: Read) -> Tensor:
    return read(name)


def _shaped_as(published: str, name: str, read: Read) -> Tensor:
    return read(name).view(1, 1, -1) if published == BIASES else read(name)


def _joined(names: list[str], read: Read) -> Tensor:
    return torch.cat([read(name) for name in names])


def _zeros(shape: tuple[int, ...], read: Read) -> Tensor:
    return torch.zeros(shape)


def _with_rows_of_zeros(name: str, count: int, read: Read) -> Tensor:
    return F.pad(read(name), (0, 0, 0, count))


def _rows(name: str, rows: slice, head_size: int | None, read: Read) -> Tensor:
    """Return some rows of a tensor; those of heads of `head_size` in the order of Llama's kernels.

    We rotate channels 2i and 2i + 1 of a head together, Llama's kernels channel i and i + half of them.
    """
    found = read(name)[rows]
    return found if head_size is None else found.unflatten(0, (-1, head_size // 2, 2)).transpose(1, 2).flatten(0, 2)

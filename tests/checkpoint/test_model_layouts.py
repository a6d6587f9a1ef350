"""The names of the published weights, and what is made of ours for a Llama."""

import pytest
import torch
from golden_models import GOLDEN, load_golden_elm
from safetensors.torch import load_file
from torch import Tensor

from elm_dist.checkpoint.model_layouts import (
    huggingface_layout,
    meta_tensors,
    official_layout,
    official_names,
    own_layout,
)
from elm_dist.config import Grid, ModelConfig

GRID = Grid(16, 16)


def model_of(subtokens: int, bits: int) -> ModelConfig:
    return ModelConfig(num_layers=24, hidden_size=1024, num_heads=16, subtokens=subtokens, subtoken_bits=bits)


def published_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    tensors = meta_tensors(model, GRID)
    return {key: tuple(make(tensors.__getitem__).shape) for key, make in official_layout(model, GRID).items()}


@pytest.mark.parametrize("name", ["ar_1-6", "ar_2-5"])
def test_the_published_weights_come_back_bit_by_bit(name: str) -> None:
    elm, model, _, _ = load_golden_elm(name)
    published = load_file(GOLDEN / f"{name}.weights.safetensors")
    written = {key: make(elm.state_dict().__getitem__) for key, make in official_layout(model, GRID).items()}
    assert written.keys() == published.keys()
    assert all(torch.equal(written[key], published[key]) for key in published)


def test_the_largest_published_decomposition_by_its_names_and_shapes() -> None:
    """ELM-L 2-10, whose list of 175 tensors is known."""
    tensors = meta_tensors(model_of(2, 10), GRID)
    shapes = {
        key: tuple(make(tensors.__getitem__).shape) for key, make in official_layout(model_of(2, 10), GRID).items()
    }
    assert len(shapes) == 175
    block = {
        "attention.wqkv": (3072, 1024),
        "attention.wo": (1024, 1024),
        "feed_forward.w1": (2816, 1024),
        "feed_forward.w3": (2816, 1024),
        "feed_forward.w2": (1024, 2816),
        "attention_norm": (1024,),
        "ffn_norm": (1024,),
    }
    expected = {f"layers.{i}.{key}.weight": shape for i in range(24) for key, shape in block.items()}
    expected |= {f"{part}.{i}.weight": (1024, 1024) for part in ("tok_embedder", "output") for i in range(2)}
    expected |= {"cls_embedding.embedding_table.weight": (1001, 1024), "proj.weight": (1024, 2048)}
    assert shapes == expected | {"norm.weight": (1024,)}


@pytest.mark.parametrize(("subtokens", "bits"), [(1, 16), (2, 12), (4, 8)])
def test_every_tensor_of_ours_has_one_name_in_each_layout(subtokens: int, bits: int) -> None:
    model = model_of(subtokens, bits)
    ours = meta_tensors(model, GRID)
    names = official_names(model)
    assert list(names) == list(own_layout(model, GRID)) == list(ours)
    assert len(set(names.values())) == len(names)
    written = [make(ours.__getitem__) for make in huggingface_layout(model).values()]
    assert sum(tensor.numel() for tensor in written) == sum(tensor.numel() for tensor in ours.values())


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """Undo what `huggingface_layout` does to q and k: channel i and i + half become neighbours again."""
    first, second = rows.unflatten(0, (heads, 2, -1)).unbind(dim=1)
    return torch.stack([first, second], dim=2).flatten(0, 2)


@pytest.mark.parametrize("name", ["ar_1-6", "ar_2-5"])
def test_what_a_llama_gets_turns_back_bit_by_bit(name: str) -> None:
    elm, model, _, _ = load_golden_elm(name)
    ours = elm.state_dict()
    llama = {key: make(ours.__getitem__) for key, make in huggingface_layout(model).items()}
    *tables, classes = llama["model.embed_tokens.weight"].split(model.vocabulary)
    for index, (table, head) in enumerate(zip(tables, llama["lm_head.weight"].split(model.vocabulary), strict=True)):
        assert torch.equal(table, ours[f"embedding.codes.{index}.weight"])
        assert torch.equal(head, ours[f"head.outputs.{index}.weight"])
    assert torch.equal(classes, ours["embedding.classes.weight"])
    for index in range(model.num_layers):
        q, k, v = (llama[f"model.layers.{index}.self_attn.{part}_proj.weight"] for part in "qkv")
        assert not torch.equal(q, ours[f"block_{index}.attention.qkv.weight"].chunk(3)[0])
        whole = torch.cat([interleaved(q, model.num_heads), interleaved(k, model.num_heads), v])
        assert torch.equal(whole, ours[f"block_{index}.attention.qkv.weight"])
        assert torch.equal(
            llama[f"model.layers.{index}.mlp.up_proj.weight"], ours[f"block_{index}.feed_forward.up.weight"]
        )

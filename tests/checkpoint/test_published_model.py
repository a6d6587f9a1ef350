"""What names and shapes tell of a published transformer: each that was published, and none of what was not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from elm_dist.checkpoint.model_layouts import meta_tensors, official_layout
from elm_dist.checkpoint.published_model import derive_model
from elm_dist.config import Grid, ModelConfig
from elm_dist.errors import CheckpointError

FILE, GRID = Path("elm.pth"), Grid(16, 16)
SIZES = {"L": (24, 1024), "XL": (36, 1280), "XXL": (48, 1536), "2B": (48, 1792)}
# All tensors of the published files; those of masked models have learned positions that nothing uses.
PARAMETERS = {
    ("L", 1, 16, "autoregressive"): 443_574_272,
    ("L", 2, 10, "autoregressive"): 315_648_000,
    ("XL", 3, 8, "autoregressive"): 739_637_760,
    ("XXL", 4, 8, "autoregressive"): 1_373_223_936,
    ("2B", 2, 12, "autoregressive"): 1_909_458_432,
    ("L", 1, 16, "masked"): 377_845_761,
    ("XL", 1, 16, "masked"): 818_679_297,
    ("XXL", 1, 16, "masked"): 1_464_128_513,
}


def published(model: ModelConfig, grid: Grid = GRID) -> dict[str, Tensor]:
    ours = meta_tensors(model, grid)
    return {name: make(ours.__getitem__) for name, make in official_layout(model, grid).items()}


@pytest.mark.parametrize(("size", "subtokens", "bits", "modelling"), PARAMETERS)
def test_every_published_model_is_known_by_its_tensors(size: str, subtokens: int, bits: int, modelling: str) -> None:
    layers, hidden = SIZES[size]
    model = ModelConfig(
        num_layers=layers,
        hidden_size=hidden,
        num_heads=hidden // 64,
        subtokens=subtokens,
        subtoken_bits=bits,
        modelling=modelling,
    )
    tensors = published(model)
    assert sum(tensor.numel() for tensor in tensors.values()) == PARAMETERS[size, subtokens, bits, modelling]
    assert derive_model(FILE, tensors) == model


SMALL = ModelConfig(num_layers=2, hidden_size=64, num_heads=1, subtokens=2, subtoken_bits=5, num_classes=7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cls_embedding.embedding_table.weight": None},
            r"transformer: cls_embedding\.embedding_table\.weight is missing; download the file again$",
        ),
        ({"tok_embedder.0.weight": None}, r"transformer: tok_embedder\.weight is missing; download the file again$"),
        ({"cls_embedding.embedding_table.weight": (8,)}, r"its shapes make no transformer: not enough values to unpa"),
        (
            {"tok_embedder.0.weight": (33, 64)},
            r"make no transformer: tok_embedder\.0\.weight has 33 entries for codes, which is no power of two; downl",
        ),
        ({"cls_embedding.embedding_table.weight": (1, 64)}, r"num_classes input should be greater than or equal to 1"),
        (
            {"cls_embedding.embedding_table.weight": (8, 96)},
            r"which are no heads of 64, as all published models have; say how many .* with --heads$",
        ),
    ],
)
def test_shapes_that_make_no_model(changes: dict[str, tuple[int, ...] | None], message: str) -> None:
    tensors = published(SMALL, Grid(4, 4))
    for name, shape in changes.items():
        tensors.pop(name)
        if shape is not None:
            tensors[name] = torch.empty(shape, device="meta")
    with pytest.raises(CheckpointError, match=rf"^elm\.pth: (?!.*elm\.pth).*{message}"):
        derive_model(FILE, tensors)


def test_heads_of_another_size_are_told() -> None:
    assert derive_model(FILE, published(SMALL, Grid(4, 4)), heads=4) == SMALL.model_copy(update={"num_heads": 4})

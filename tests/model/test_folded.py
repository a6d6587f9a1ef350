import pytest
import torch
from golden_models import load_golden_elm
from torch import nn

from elm_dist.model.folded import SMALLEST_TO_PACK, FoldedELM, FoldedEmbedding, FoldedHead, FoldedNorm, Matrix
from elm_dist.model.int8 import Int8Linear
from elm_dist.model.layers import RMSNorm

WIDTH = 512
SIZES = [100, 200]  # together large enough to be packed


def linears(dtype: torch.dtype, sizes: list[int]) -> list[nn.Linear]:
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(WIDTH, size, bias=False) for size in sizes]
    for layer in layers:
        nn.init.normal_(layer.weight, std=WIDTH**-0.5, generator=generator)
    return [layer.to(dtype) for layer in layers]


@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_matrix_is_its_linear_layers_side_by_side(dtype: torch.dtype, packed: bool, rows: int) -> None:
    layers = linears(dtype, SIZES)
    x = torch.randn(rows, 1, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        found = Matrix(*layers, packed=packed)(x)
        expected = torch.cat([layer(x) for layer in layers], dim=2)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 2**-5)  # of 4 to 8


def test_weights_of_8_bits_stay_what_they_are() -> None:
    layers = [Int8Linear(layer) for layer in linears(torch.float32, SIZES)]
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    matrix = Matrix(*layers, packed=True)
    assert matrix.weight.dtype == torch.int8
    torch.testing.assert_close(matrix(x), torch.cat([layer(x) for layer in layers], dim=1))


def test_a_cpu_packs_what_is_large() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    small, *_ = large = linears(torch.float32, SIZES)
    assert small.weight.numel() < SMALLEST_TO_PACK <= sum(layer.weight.numel() for layer in large)
    assert Matrix(*large, packed=True).is_packed
    assert not Matrix(*large, packed=False).is_packed
    alone = Matrix(small, packed=True)
    assert not alone.is_packed
    assert alone.weight.data_ptr() == small.weight.data_ptr()  # and it is not copied


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_norm_folds_to_the_same_function(dtype: torch.dtype) -> None:
    norm = RMSNorm(48)
    generator = torch.Generator().manual_seed(0)
    nn.init.normal_(norm.weight, generator=generator)
    x = torch.randn(5, 1, 48, generator=generator) * torch.tensor([0, 1e-3, 1, 30, 1e4]).view(-1, 1, 1)
    found, expected = FoldedNorm(norm.to(dtype))(x.to(dtype)), norm(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=1e-6 if dtype == torch.float32 else 2**-8, atol=1e-7)


@pytest.mark.parametrize("name", ["ar_1-6", "ar_2-5"])
def test_embedding_and_head_fold_to_the_same_functions(name: str) -> None:
    elm, _, golden, _ = load_golden_elm(name)
    with torch.inference_mode():
        found = FoldedEmbedding(elm.embedding).embed_codes(golden["codes"])
        torch.testing.assert_close(found, elm.embedding.embed_codes(golden["codes"]), rtol=0, atol=1e-6)
        expected = elm.head(found)
        torch.testing.assert_close(FoldedHead(elm.head, packed=True)(found), expected, rtol=0, atol=1e-5)


def test_a_place_sees_what_is_before_it_however_it_is_asked_for() -> None:
    elm, _, _, grid = load_golden_elm("ar_2-5")
    places = FoldedELM(elm).places
    between, at = places.between(3, 6), places.at(torch.tensor([3, 4, 5]))
    assert at.positions.tolist() == between.positions.tolist() == [3, 4, 5]
    assert torch.equal(at.cosines, between.cosines)
    assert torch.equal(at.sines, between.sines)
    assert [row.sum().item() for row in at.mask] == [row.sum().item() for row in between.mask] == [4, 5, 6]
    assert at.mask.shape == (3, grid.cells)
    assert between.mask.shape == (3, 6)
    assert places.between(5, 6).mask is None

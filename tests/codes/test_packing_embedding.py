"""Embedding packed bytes against unpacking them and looking the sub-tokens up, by each implementation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elm_dist.codes.packing import embed_packed, unpack_subtokens
from elm_dist.codes.subtokens import CodeShape

pytestmark = pytest.mark.usefixtures("implementation")

SHAPES = [CodeShape(37, 1, 7), CodeShape(16, 2, 8), CodeShape(21, 2, 5), CodeShape(5, 3, 3), CodeShape(4, 64, 1)]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def random_packed(batch: int, shape: CodeShape) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, shape.packed_bytes), dtype=torch.uint8, generator=generator)


def random_tables(shape: CodeShape, channels: int, dtype: torch.dtype, entries: int | None = None) -> list[Tensor]:
    """Tables that take a gradient, of `entries` instead of one for each sub-token."""
    generator = torch.Generator().manual_seed(1)
    size = (entries or shape.vocabulary, channels)
    return [torch.randn(size, generator=generator).to(dtype).requires_grad_() for _ in range(shape.subtokens)]


def look_up(ids: Tensor, tables: list[Tensor]) -> Tensor:
    """Return (batch, positions, subtokens, channels)."""
    return torch.stack([F.embedding(ids[..., s], table) for s, table in enumerate(tables)], dim=2)


@pytest.mark.parametrize("channels", [1, 8, 100, 256])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_are_added_up_or_laid_side_by_side(shape: CodeShape, dtype: torch.dtype, channels: int) -> None:
    packed, tables = random_packed(3, shape), random_tables(shape, channels, dtype)
    rows = look_up(unpack_subtokens(packed, shape), tables)
    assert torch.equal(embed_packed(packed, tables, shape, concat=True), rows.flatten(2))
    wide = torch.promote_types(dtype, torch.float32)
    total = torch.zeros(rows[:, :, 0].shape, dtype=wide)
    for s in range(shape.subtokens):
        total += rows[:, :, s].to(wide)  # in this order, rounded once
    assert torch.equal(embed_packed(packed, tables, shape), total.to(dtype))


def test_the_sum_is_that_of_an_embedding_bag() -> None:
    shape = CodeShape(64, 2, 10)
    packed, tables = random_packed(4, shape), random_tables(shape, 32, torch.float32)
    bags = (unpack_subtokens(packed, shape) + torch.tensor([0, shape.vocabulary])).flatten(0, 1)
    expected = F.embedding_bag(bags, torch.cat(tables), mode="sum").unflatten(0, (4, 64))
    torch.testing.assert_close(embed_packed(packed, tables, shape), expected)


@pytest.mark.parametrize("concat", [False, True])
def test_the_last_positions_may_be_left_out(concat: bool) -> None:
    """As in training, where nothing follows the last code."""
    shape, inputs = CodeShape(16, 2, 5), CodeShape(15, 2, 5)
    packed, tables = random_packed(3, shape), random_tables(shape, 24, torch.float32)
    whole = embed_packed(packed, tables, shape, concat=concat)
    assert torch.equal(embed_packed(packed, tables, inputs, concat=concat), whole[:, :15])


@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masked_positions_are_the_mask_token(shape: CodeShape, concat: bool) -> None:
    packed, tables = random_packed(3, shape), random_tables(shape, 40, torch.float32, shape.vocabulary + 1)
    masked = torch.rand((3, shape.positions), generator=torch.Generator().manual_seed(2)) < 0.5
    ids = unpack_subtokens(packed, shape).masked_fill(masked.unsqueeze(2), shape.vocabulary)
    rows = look_up(ids, tables)
    expected = rows.flatten(2) if concat else rows.sum(dim=2)
    torch.testing.assert_close(embed_packed(packed, tables, shape, concat=concat, masked=masked), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("concat", [False, True])
def test_gradients_are_those_of_looking_up(concat: bool, masked: bool, dtype: torch.dtype) -> None:
    shape = CodeShape(21, 3, 4)
    packed, tables = random_packed(2, shape), random_tables(shape, 12, dtype, shape.vocabulary + 1)
    mask = torch.arange(42).view(2, 21) % 3 == 0 if masked else None
    out = embed_packed(packed, tables, shape, concat=concat, masked=mask)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    found = torch.autograd.grad(out, tables, gradient)
    ids = unpack_subtokens(packed, shape)
    rows = look_up(ids if mask is None else ids.masked_fill(mask.unsqueeze(2), shape.vocabulary), tables)
    spread = gradient.unflatten(2, (3, 12)) if concat else gradient.unsqueeze(2).expand(rows.shape)
    expected = torch.autograd.grad(rows, tables, spread)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_views_of_tables_and_bytes() -> None:
    shape = CodeShape(16, 2, 6)
    packed = torch.cat([torch.zeros(1, dtype=torch.uint8), random_packed(3, shape).flatten()])[1:].view(3, -1)
    weight = torch.randn((2 * 64, 31), generator=torch.Generator().manual_seed(4))[:, 1:]
    tables = list(weight.chunk(2))
    expected = look_up(unpack_subtokens(packed, shape), tables).sum(dim=2)
    assert torch.equal(embed_packed(packed, tables, shape), expected)


def test_a_wrong_number_of_tables_is_refused() -> None:
    shape = CodeShape(16, 2, 6)
    with pytest.raises(AssertionError, match=r"CodeShape\(.*\) needs 2 tables, not 1"):
        embed_packed(random_packed(1, shape), random_tables(shape, 8, torch.float32)[:1], shape)


@pytest.mark.gpu
@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_gives_the_same(dtype: torch.dtype, concat: bool) -> None:
    shape = CodeShape(21, 3, 4)
    packed, tables = random_packed(5, shape), random_tables(shape, 72, dtype)
    on_gpu = embed_packed(packed.cuda(), [table.cuda() for table in tables], shape, concat=concat)
    assert torch.equal(on_gpu.cpu(), embed_packed(packed, tables, shape, concat=concat))

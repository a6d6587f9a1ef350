from typing import Any

import torch

from elm_dist.config import Grid, ModelConfig
from elm_dist.model.attention import Attention
from elm_dist.model.rotary import rope_table, rotary_factors, rotate, rotate_by

CPU = torch.device("cpu")


def describe(head_size: int, **options: Any) -> ModelConfig:
    return ModelConfig(num_layers=1, hidden_size=2 * head_size, num_heads=2, subtokens=2, subtoken_bits=4, **options)


def table_of(side: int, head_size: int, **options: Any) -> torch.Tensor:
    return rope_table(describe(head_size, **options), Grid(side, side), CPU)


def test_class_row_is_zero_so_its_query_and_key_vanish() -> None:
    table = table_of(16, 64)
    assert table.shape == (256, 32, 2)
    assert not table[0].any()
    assert not rotate(torch.randn(1, 1, 2, 64), table[:1]).any()


def test_rows_rotate_the_first_half_of_the_pairs_and_columns_the_second() -> None:
    table = table_of(16, 64)
    moved = table[..., 1] != 0  # a pair turns where its sine is not zero
    column_1, row_1 = moved[1 + 1], moved[1 + 16]  # position 0 is the class
    assert not column_1[:16].any()
    assert column_1[16:].all()
    assert row_1[:16].all()
    assert not row_1[16:].any()


def test_frequencies_fall_from_1_by_powers_of_10000() -> None:
    table = table_of(16, 64)
    angles = torch.atan2(table[1 + 16, :16, 1], table[1 + 16, :16, 0])
    expected = 10_000 ** (-torch.arange(16) / 16)
    torch.testing.assert_close(angles, expected, rtol=1e-5, atol=1e-6)


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    table = table_of(8, 16)
    q, k = torch.randn(2, 1, 1, 1, 16).unbind()
    at = lambda x, row, column: rotate(x, table[1 + 8 * row + column].unsqueeze(0)).flatten()  # noqa: E731
    torch.testing.assert_close(at(q, 3, 4).norm(), q.norm())
    torch.testing.assert_close(at(q, 3, 4) @ at(k, 1, 3), at(q, 5, 2) @ at(k, 3, 1), rtol=1e-4, atol=1e-5)


def test_the_rotation_of_sampling_is_that_of_training() -> None:
    table = table_of(4, 16)
    cosines, sines = (factor[:, None, None] for factor in rotary_factors(table))
    x = torch.randn(3, 16, 2, 5, 16, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16):
        exact = x.to(dtype)
        expected = torch.stack([rotate(part, table) for part in exact.unbind(dim=2)], dim=2)
        found = rotate_by(exact, cosines, sines)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=0 if dtype == torch.float32 else 8e-3, atol=5e-7)


def test_training_can_follow_sampling_in_one_process() -> None:
    rope_table.cache_clear()
    attention, x = Attention(describe(16), Grid(4, 4)), torch.randn(1, 16, 32)
    with torch.inference_mode():
        attention(x, attention.table(x))
    attention(x, attention.table(x)).sum().backward()
    assert attention.qkv.weight.grad is not None


def test_in_one_dimension_the_class_is_the_first_position() -> None:
    table = table_of(4, 16, position_encoding="rope_1d")
    assert table.shape == (16, 8, 2)
    assert torch.equal(table[0], torch.tensor([1.0, 0.0]).expand(8, 2))
    angles = torch.atan2(table[3, :, 1], table[3, :, 0])
    torch.testing.assert_close(angles, (3 * 10_000 ** (-torch.arange(8) / 8) + torch.pi) % (2 * torch.pi) - torch.pi)


def test_a_scan_moves_the_rows_of_the_table() -> None:
    raster, columns = table_of(4, 16), table_of(4, 16, scan="column_raster")
    assert torch.equal(columns[1 + 1], raster[1 + 4])  # the second code of a column lies a row below
    assert torch.equal(columns[1 + 4], raster[1 + 1])


def test_a_masked_model_has_a_row_for_every_cell() -> None:
    table = table_of(4, 16, modelling="masked")
    assert table.shape == (17, 8, 2)
    assert torch.equal(table[:16], table_of(4, 16))


def test_squeezed_positions_reach_as_far_as_those_of_the_smaller_grid() -> None:
    large, small = table_of(8, 16, rope_grid=4), table_of(4, 16)
    cell = lambda table, side, row, column: table[1 + side * row + column]  # noqa: E731
    assert torch.equal(cell(large, 8, 2, 6), cell(small, 4, 1, 3))
    assert not torch.equal(cell(table_of(8, 16), 8, 2, 6), cell(large, 8, 2, 6))
    line, short = (table_of(side, 16, rope_grid=4, position_encoding="rope_1d") for side in (8, 4))
    assert torch.equal(line[4 * 5], short[5])


def test_a_grid_need_not_be_square() -> None:
    table = rope_table(describe(16), Grid(2, 4), CPU)
    assert table.shape == (8, 8, 2)
    square = table_of(4, 16)
    assert torch.equal(table[1 + 4 + 2], square[1 + 4 + 2]), "row 1, column 2"

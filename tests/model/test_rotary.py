import torch

from elm_dist.model.attention import Attention
from elm_dist.model.rotary import rope_table, rotary_factors, rotate, rotate_by

CPU = torch.device("cpu")


def test_class_row_is_zero_so_its_query_and_key_vanish() -> None:
    table = rope_table(16, 64, CPU)
    assert table.shape == (256, 32, 2)
    assert not table[0].any()
    assert not rotate(torch.randn(1, 1, 2, 64), table[:1]).any()


def test_rows_rotate_the_first_half_of_the_pairs_and_columns_the_second() -> None:
    table = rope_table(16, 64, CPU)
    moved = table[..., 1] != 0  # a pair turns where its sine is not zero
    column_1, row_1 = moved[1 + 1], moved[1 + 16]  # position 0 is the class
    assert not column_1[:16].any()
    assert column_1[16:].all()
    assert row_1[:16].all()
    assert not row_1[16:].any()


def test_frequencies_fall_from_1_by_powers_of_10000() -> None:
    table = rope_table(16, 64, CPU)
    angles = torch.atan2(table[1 + 16, :16, 1], table[1 + 16, :16, 0])
    expected = 10_000 ** (-torch.arange(16) / 16)
    torch.testing.assert_close(angles, expected, rtol=1e-5, atol=1e-6)


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    table = rope_table(8, 16, CPU)
    q, k = torch.randn(2, 1, 1, 1, 16).unbind()
    at = lambda x, row, column: rotate(x, table[1 + 8 * row + column].unsqueeze(0)).flatten()  # noqa: E731
    torch.testing.assert_close(at(q, 3, 4).norm(), q.norm())
    torch.testing.assert_close(at(q, 3, 4) @ at(k, 1, 3), at(q, 5, 2) @ at(k, 3, 1), rtol=1e-4, atol=1e-5)


def test_the_rotation_of_sampling_is_that_of_training() -> None:
    table = rope_table(4, 16, CPU)
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
    attention, x = Attention(size=32, heads=2, grid=4), torch.randn(1, 16, 32)
    with torch.inference_mode():
        attention(x, attention.table(x))
    attention(x, attention.table(x)).sum().backward()
    assert attention.qkv.weight.grad is not None

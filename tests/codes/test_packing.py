"""Packing against np.packbits and against the specification written out in plain Python, by each implementation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_dist.codes.packing import (
    bits_to_subtokens,
    implementation,
    pack_bits,
    subtokens_to_bits,
    unpack_bits,
    unpack_subtokens,
)
from elm_dist.codes.subtokens import CodeShape

pytestmark = pytest.mark.usefixtures("implementation")

# Every "m-d" with at most 64 code bits.
SHAPES = [(m, d) for d in range(1, 65) for m in range(1, 64 // d + 1)]
PUBLISHED = [(1, 16), (2, 8), (2, 10), (2, 12), (3, 8), (4, 8)]


def random_bits(batch: int, shape: CodeShape, seed: int) -> np.ndarray:
    size = (batch, shape.positions, shape.code_bits)
    return np.random.default_rng(seed).integers(0, 2, size, dtype=np.uint8)


def specified_subtokens(code: list[int], subtokens: int, subtoken_bits: int) -> list[int]:
    """Sub-token i is the sum over j of bit [i * d + j] times 2^(d - 1 - j): groups in order, MSB first."""
    return [
        sum(code[i * subtoken_bits + j] * 2 ** (subtoken_bits - 1 - j) for j in range(subtoken_bits))
        for i in range(subtokens)
    ]


def test_the_published_example() -> None:
    bits = torch.tensor([[1, 0, 1, 1, 0, 0, 1, 0]])
    assert bits_to_subtokens(bits, 4).tolist() == [[11, 2]]
    assert pack_bits(bits).tolist() == [[0b10110010]]
    assert unpack_subtokens(pack_bits(bits), CodeShape(1, 2, 4)).tolist() == [[[11, 2]]]


def test_the_name_of_the_implementation(request: pytest.FixtureRequest) -> None:
    forced = request.getfixturevalue("implementation")
    gpu = ", CUDA" if torch.cuda.is_available() and "CUDA" in implementation() else ""
    assert implementation() == ("torch" if forced == "torch" else f"compiled ({forced}{gpu})")


@pytest.mark.parametrize(("subtokens", "subtoken_bits"), SHAPES)
def test_every_shape_follows_the_specification(subtokens: int, subtoken_bits: int) -> None:
    shape = CodeShape(5, subtokens, subtoken_bits)  # 5 positions: fields straddle bytes, and padding occurs
    bits = random_bits(2, shape, seed=64 * subtokens + subtoken_bits)
    packed = pack_bits(torch.from_numpy(bits).flatten(1))
    expected = [[specified_subtokens(code.tolist(), subtokens, subtoken_bits) for code in image] for image in bits]
    ids = unpack_subtokens(packed, shape)
    assert np.array_equal(ids.numpy().view(np.uint64), np.array(expected, np.uint64))
    assert torch.equal(subtokens_to_bits(ids, subtoken_bits), torch.from_numpy(bits))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_subtokens_come_in_any_type_that_holds_them(dtype: torch.dtype) -> None:
    for subtokens, subtoken_bits in ((8, 1), (3, 8), (2, 10), (1, 16), (2, 32)):
        shape = CodeShape(37, subtokens, subtoken_bits)
        packed = pack_bits(torch.from_numpy(random_bits(3, shape, seed=1)).flatten(1))
        if subtoken_bits > 8 * dtype.itemsize:
            with pytest.raises(AssertionError, match=f"{subtoken_bits} bits do not fit {dtype}"):
                unpack_subtokens(packed, shape, dtype)
            continue
        ids = unpack_subtokens(packed, shape, dtype)
        assert ids.dtype == dtype
        assert torch.equal(ids, unpack_subtokens(packed, shape).to(dtype))
        assert torch.equal(subtokens_to_bits(ids, subtoken_bits), unpack_bits(packed, shape))


@settings(deadline=None)
@given(st.sampled_from(SHAPES), st.integers(1, 20), st.integers(1, 4), st.integers(0, 2**32))
def test_packing_is_numpys_and_unpacking_its_inverse(
    shape_name: tuple[int, int], positions: int, batch: int, seed: int
) -> None:
    shape = CodeShape(positions, *shape_name)
    bits = random_bits(batch, shape, seed)
    packed = pack_bits(torch.from_numpy(bits).flatten(1))
    assert packed.dtype == torch.uint8
    assert packed.shape == (batch, shape.packed_bytes)
    assert (packed.numpy() == np.packbits(bits.reshape(batch, -1), axis=1)).all()
    assert (unpack_bits(packed, shape).numpy() == bits).all()


@settings(deadline=None)
@given(st.sampled_from([shape for shape in SHAPES if shape[1] < 63]), st.integers(0, 2**32))
def test_subtokens_and_bits_are_each_others_inverse(shape_name: tuple[int, int], seed: int) -> None:
    shape = CodeShape(3, *shape_name)
    ids = torch.from_numpy(np.random.default_rng(seed).integers(0, shape.vocabulary, (2, 3, shape.subtokens)))
    bits = subtokens_to_bits(ids, shape.subtoken_bits)
    assert bits.dtype == torch.uint8
    assert bits.shape == (2, 3, shape.code_bits)
    assert torch.equal(bits_to_subtokens(bits, shape.subtoken_bits), ids)


@pytest.mark.parametrize(("subtokens", "subtoken_bits"), PUBLISHED)
def test_all_zeros_and_all_ones(subtokens: int, subtoken_bits: int) -> None:
    shape = CodeShape(256, subtokens, subtoken_bits)
    assert not unpack_subtokens(torch.zeros((1, shape.packed_bytes), dtype=torch.uint8), shape).any()
    full = unpack_subtokens(torch.full((1, shape.packed_bytes), 255, dtype=torch.uint8), shape)
    assert full.dtype == torch.int64
    assert full.shape == (1, 256, subtokens)
    assert (full == shape.vocabulary - 1).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int64, torch.float16, torch.float64])
def test_bits_may_come_in_any_type(dtype: torch.dtype) -> None:
    bits = random_bits(1, CodeShape(4, 2, 10), seed=0)
    packed = pack_bits(torch.from_numpy(bits).flatten(1).to(dtype))
    assert (packed.numpy() == np.packbits(bits.reshape(1, -1), axis=1)).all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32, torch.bfloat16, torch.float64])
def test_a_bit_is_set_where_its_sign_is_positive(dtype: torch.dtype) -> None:
    signs = 2 * torch.from_numpy(random_bits(2, CodeShape(40, 1, 11), seed=2)).flatten(1).to(torch.int8) - 1
    packed = pack_bits(signs.to(dtype))
    assert (packed.numpy() == np.packbits(signs.numpy() > 0, axis=1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neither_zero_nor_nan_is_positive(dtype: torch.dtype) -> None:
    values = torch.tensor([[0.0, -0.0, torch.nan, torch.inf, -torch.inf, 1e-40, 1.0, -torch.nan]] * 9).to(dtype)
    assert pack_bits(values.flatten().unsqueeze(0)).tolist() == [[0b00010110] * 9]


def test_views_are_packed_as_they_look() -> None:
    shape = CodeShape(64, 2, 10)
    bits = torch.from_numpy(random_bits(6, shape, seed=3)).flatten(1)
    packed = pack_bits(bits)
    assert torch.equal(pack_bits(bits.t().contiguous().t()), packed)
    assert torch.equal(pack_bits(bits[::2]), packed[::2])
    ids = unpack_subtokens(packed, shape)
    assert torch.equal(unpack_subtokens(packed.t().contiguous().t(), shape), ids)
    assert torch.equal(subtokens_to_bits(ids[:, ::3], 10), subtokens_to_bits(ids, 10)[:, ::3])
    shifted = torch.cat([packed.new_zeros(1), packed.flatten()])[1:].view(packed.shape)  # an odd address
    assert torch.equal(unpack_subtokens(shifted, shape), ids)


def test_many_threads_give_the_same() -> None:
    shape = CodeShape(256, 2, 12)
    packed = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (99, shape.packed_bytes), np.uint8))
    ids = unpack_subtokens(packed, shape)
    torch.set_num_threads(3)
    try:
        assert torch.equal(unpack_subtokens(packed, shape), ids)
        assert torch.equal(pack_bits(subtokens_to_bits(ids, 12).flatten(1)), packed)
    finally:
        torch.set_num_threads(1)


def test_nothing_packs_into_nothing() -> None:
    shape = CodeShape(256, 2, 10)
    assert pack_bits(torch.zeros((0, shape.image_bits))).shape == (0, 640)
    assert unpack_subtokens(torch.zeros((0, 640), dtype=torch.uint8), shape).shape == (0, 256, 2)
    assert subtokens_to_bits(torch.zeros((3, 0, 2), dtype=torch.int64), 10).shape == (3, 0, 20)


def test_a_packed_row_of_another_length_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"CodeShape\(.*\) does not pack into 641 bytes"):
        unpack_subtokens(torch.zeros((1, 641), dtype=torch.uint8), CodeShape(256, 2, 10))


@pytest.mark.parametrize(("code_bits", "size"), [(16, 512), (20, 640), (24, 768), (32, 1024)])
def test_an_image_of_256_positions_fills_whole_bytes(code_bits: int, size: int) -> None:
    assert CodeShape(256, 2, code_bits // 2).packed_bytes == size


def test_padding_is_zeros_at_the_end() -> None:
    assert CodeShape(1, 1, 3).packed_bytes == 1
    assert pack_bits(torch.ones((1, 3), dtype=torch.uint8)).tolist() == [[0b11100000]]


@pytest.mark.gpu
@pytest.mark.parametrize(("subtokens", "subtoken_bits"), PUBLISHED)
def test_a_gpu_gives_the_same(subtokens: int, subtoken_bits: int) -> None:
    shape = CodeShape(256, subtokens, subtoken_bits)
    bits = torch.from_numpy(random_bits(8, shape, seed=1)).flatten(1)
    packed = pack_bits(bits.cuda())
    assert torch.equal(packed.cpu(), pack_bits(bits))
    assert torch.equal(unpack_subtokens(packed, shape).cpu(), unpack_subtokens(pack_bits(bits), shape))

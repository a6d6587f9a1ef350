"""Bits drawn from probabilities: the generator's known answers, and draws that belong to the sample alone."""

import numpy as np
import pytest
import torch

from elm_dist.codes.fallback import philox
from elm_dist.codes.packing import pack_bits

pytestmark = pytest.mark.usefixtures("implementation")

SAMPLES = torch.tensor([3, 2**40, 0, 2**62 + 5])
SEED = 2**62 + 12345


def probabilities(bits: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((len(SAMPLES), bits), np.float32))


def unpack(packed: torch.Tensor) -> np.ndarray:
    return np.unpackbits(packed.numpy(), axis=1)


def test_known_answers_of_philox() -> None:
    """Those that come with Random123, of its authors: counters and keys of zeros, of ones, and of the digits of pi."""
    low, high = (torch.tensor([0, -1, half]) for half in (0x85A308D3243F6A88 - 2**64, 0x0370734413198A2E))
    keys = (0, -1, 0x299F31D0A4093822)
    words = [philox(key, low[i], high[i]).tolist() for i, key in enumerate(keys)]
    assert words == [
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ]


@pytest.mark.parametrize("bits", [1, 4, 9, 64, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_bit_is_drawn_where_its_word_lies_below_its_probability(dtype: torch.dtype, bits: int) -> None:
    p = probabilities(bits).to(dtype)
    words = philox(SEED, torch.arange(250), SAMPLES[:, None]).flatten(1)[:, :bits]
    expected = (words.numpy() >> 8) / 2**24 < p.double().numpy()
    assert (unpack(pack_bits(p, SAMPLES, SEED))[:, :bits] == expected).all()


def test_bytes_are_probabilities_in_255ths() -> None:
    p = torch.arange(256, dtype=torch.uint8).repeat(len(SAMPLES), 8)
    words = philox(SEED, torch.arange(512), SAMPLES[:, None]).flatten(1)
    expected = words.numpy() / 256 // 1 * 255 < p.numpy().astype(np.float64) * 2**24
    assert (unpack(pack_bits(p, SAMPLES, SEED)) == expected).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32, torch.bfloat16])
def test_what_is_certain_is_always_drawn_and_what_is_impossible_never(dtype: torch.dtype) -> None:
    certain = 255 if dtype == torch.uint8 else 1
    assert (pack_bits(torch.full((4, 10_000), certain, dtype=dtype), SAMPLES, SEED) == 255).all()
    assert not pack_bits(torch.zeros((4, 10_000), dtype=dtype), SAMPLES, SEED).any()


def test_draws_belong_to_the_sample() -> None:
    p = probabilities(300)
    packed = pack_bits(p, SAMPLES, SEED)
    for row in range(len(SAMPLES)):
        assert torch.equal(pack_bits(p[row : row + 1], SAMPLES[row : row + 1], SEED), packed[row : row + 1])
    flipped = pack_bits(p.flip(0), SAMPLES.flip(0), SEED)
    assert torch.equal(flipped.flip(0), packed)


def test_seeds_samples_and_bits_are_independent() -> None:
    half = torch.full((2, 80_000), 0.5)
    draws = [unpack(pack_bits(half, torch.tensor([0, 1]), seed)).astype(bool) for seed in (0, 1)]
    rows = [*draws[0], *draws[1], np.roll(draws[0][0], 1), np.roll(draws[0][0], 4)]
    for i, row in enumerate(rows):
        assert row.mean() == pytest.approx(0.5, abs=0.01)
        for other in rows[:i]:
            assert (row == other).mean() == pytest.approx(0.5, abs=0.01)


def test_the_draw_of_a_sample_never_changes() -> None:
    packed = pack_bits(torch.linspace(0, 1, 64).unsqueeze(0), torch.tensor([7]), 42)
    assert packed.numpy().tobytes().hex() == "000048b3ef78df7f"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_a_gpu_draws_the_same(dtype: torch.dtype) -> None:
    p = (probabilities(1001) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    assert torch.equal(pack_bits(p.cuda(), SAMPLES.cuda(), SEED).cpu(), pack_bits(p, SAMPLES, SEED))

"""The VQGAN: its published shapes, the nearest entry with a straight-through gradient, codes and back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from skimage import data
from torch import Tensor

from elm_dist.codes.packing import unpack_bits, unpack_subtokens
from elm_dist.config import TokenizerConfig
from elm_dist.tokenizers.bae import BAE
from elm_dist.tokenizers.build import build_tokenizer
from elm_dist.tokenizers.vqgan import VQGAN

PUBLISHED = {
    "code_bits": 14,
    "codebook_size": 16_384,
    "codebook_dim": 8,
    "image_size": 256,
    "base_channels": 128,
    "channel_multipliers": (1, 1, 2, 2, 4),
    "res_blocks": 2,
    "embedding_channels": 256,
}


def build_config(**changes: Any) -> TokenizerConfig:
    settings: dict[str, Any] = {
        "kind": "vqgan",
        "code_bits": 6,
        "codebook_size": 50,
        "codebook_dim": 4,
        "image_size": 32,
        "base_channels": 32,
        "channel_multipliers": (1, 2),
        "res_blocks": 1,
        "attention_resolutions": (16,),
        "embedding_channels": 32,
    }
    return TokenizerConfig(directory=Path("tokenizer"), **settings | changes)


def photographs(size: int) -> Tensor:
    """Return two photographs' corners (2, 3, size, size) in [0, 1]."""
    images = [torch.from_numpy(image()[:size, :size].copy()) for image in (data.astronaut, data.coffee)]
    return torch.stack(images).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(params=[True, False], ids=["normalized", "plain"])
def vqgan(request: pytest.FixtureRequest) -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(build_config(codebook_normalized=request.param))


def test_the_kind_decides_what_is_built() -> None:
    assert isinstance(build_tokenizer(build_config()), VQGAN)
    assert isinstance(build_tokenizer(build_config(kind="bae", codebook_size=0)), BAE)


def test_the_published_sizes() -> None:
    """Encoder and decoder of the f16 nets, counted by hand from their blocks."""
    with torch.device("meta"):
        vqgan = VQGAN(build_config(**PUBLISHED))

    def conv(channels_in: int, channels_out: int, size: int = 3) -> int:
        return channels_in * channels_out * size**2 + channels_out

    def residual(channels_in: int, channels_out: int) -> int:
        skip = 0 if channels_in == channels_out else conv(channels_in, channels_out, 1)
        return (
            2 * (channels_in + channels_out) + conv(channels_in, channels_out) + conv(channels_out, channels_out) + skip
        )

    def attention(channels: int) -> int:
        return 2 * channels + 4 * conv(channels, channels, 1)

    middle = 2 * residual(512, 512) + attention(512)
    encoder = conv(3, 128) + 4 * residual(128, 128) + 2 * conv(128, 128)
    encoder += residual(128, 256) + 3 * residual(256, 256) + 2 * conv(256, 256)
    encoder += residual(256, 512) + residual(512, 512) + 2 * attention(512) + middle + 2 * 512 + conv(512, 256)
    decoder = conv(256, 512) + middle + 3 * residual(512, 512) + 3 * attention(512) + conv(512, 512)
    decoder += residual(512, 256) + 5 * residual(256, 256) + 2 * conv(256, 256)
    decoder += residual(256, 128) + 5 * residual(128, 128) + conv(128, 128) + 2 * 128 + conv(128, 3)
    assert sum(p.numel() for p in vqgan.encoder.parameters()) == encoder
    assert sum(p.numel() for p in vqgan.decoder.parameters()) == decoder
    assert sum(p.numel() for p in vqgan.project.parameters()) == 256 * 8 + 8
    assert vqgan.codebook.weight.shape == (16_384, 8)


def test_the_entry_is_the_nearest_by_squared_distance(vqgan: VQGAN) -> None:
    vectors = vqgan.encode(photographs(32))
    quantized = vqgan.quantize(vectors)
    flat, codebook = vectors.permute(0, 2, 3, 1).flatten(0, 2), vqgan.entries()
    distances = (flat[:, None].double() - codebook[None].double()).square().sum(dim=2)
    chosen = distances.gather(1, quantized.ids.view(-1, 1)).squeeze(1)
    torch.testing.assert_close(chosen, distances.min(dim=1).values, atol=1e-7, rtol=0)
    found = quantized.entries.permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.equal(found, codebook[quantized.ids.flatten()])
    if vqgan.config.codebook_normalized:
        for lengths in (codebook.norm(dim=1), flat.norm(dim=1)):
            torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_the_codes_of_an_image_that_is_not_square_come_back_in_place() -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(build_config(image_size=[16, 24], attention_resolutions=(8,))).eval()
    images = photographs(32)[:, :, :16, :24]
    quantized = vqgan.quantize(vqgan.encode(images))
    assert quantized.ids.shape == (2, 8, 12)
    found = vqgan.images_from_codes(vqgan.image_codes(images))
    torch.testing.assert_close(found, vqgan.decode(quantized.entries).clamp(0, 1))


def test_a_large_search_is_one_search(vqgan: VQGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(2, 4, 16, 16)
    ids = vqgan.quantize(vectors).ids
    monkeypatch.setattr("elm_dist.tokenizers.vqgan.SEARCHED_TOGETHER", 100)
    assert torch.equal(vqgan.quantize(vectors).ids, ids)


def test_bf16_finds_the_same_entries(vqgan: VQGAN) -> None:
    vectors = torch.randn(2, 4, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        ids = vqgan.quantize(vectors).ids
    assert torch.equal(ids, vqgan.quantize(vectors).ids)


def test_the_gradient_of_the_image_passes_past_the_codebook(vqgan: VQGAN) -> None:
    reconstruction, quantized = vqgan(photographs(32))
    reconstruction.square().mean().backward()
    untouched = [name for name, parameter in vqgan.named_parameters() if parameter.grad is None]
    assert untouched == ["codebook.weight"]
    torch.testing.assert_close(reconstruction, vqgan.decode(quantized.entries), atol=0, rtol=0)
    quantized.entries.sum().backward()
    used = quantized.ids.unique()
    assert set(vqgan.codebook.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()) <= set(used.tolist())


def test_codes_are_the_numbers_in_raster_order(vqgan: VQGAN) -> None:
    images = photographs(32)
    codes = vqgan.image_codes(images)
    assert codes.dtype == torch.uint8
    assert codes.shape == (2, 16 * 16 * 6 // 8)
    ids = vqgan.quantize(vqgan.encode(images)).ids
    assert torch.equal(unpack_subtokens(codes, vqgan.code_shape).squeeze(2), ids.flatten(1))


def test_images_come_from_packed_codes_and_from_bits_alike(vqgan: VQGAN) -> None:
    codes = vqgan.image_codes(photographs(32))
    images = vqgan.images_from_codes(codes)
    assert torch.equal(images, vqgan.images_from_codes(unpack_bits(codes, vqgan.code_shape)))
    reconstruction, _ = vqgan(photographs(32))
    torch.testing.assert_close(images, reconstruction.clamp(0, 1))


def test_a_number_that_no_entry_has_stands_for_the_last(vqgan: VQGAN) -> None:
    beyond, last = torch.ones(1, 256, 6, dtype=torch.uint8), torch.tensor([1, 1, 0, 0, 0, 1], dtype=torch.uint8)
    assert torch.equal(vqgan.images_from_codes(beyond), vqgan.images_from_codes(last.expand(1, 256, 6)))


@pytest.mark.parametrize("patch_size", [1, 2])
def test_patches_fold_pixels_into_channels(patch_size: int) -> None:
    vqgan = VQGAN(build_config(patch_size=patch_size, attention_resolutions=()))
    reconstruction, quantized = vqgan(photographs(32))
    assert quantized.ids.shape == (2, 16 // patch_size, 16 // patch_size)
    assert reconstruction.shape == (2, 3, 32, 32)

"""The published layouts at their full shapes: the architecture that they tell, and every tensor by its name.

The tensors are on the meta device, which has shapes and no memory. VQGAN names are written out here from the layouts'
description, level by level, independently of how the package makes them.
"""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elm_dist.checkpoint.layouts import LAYOUTS
from elm_dist.config import TokenizerConfig
from elm_dist.tokenizers.build import build_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
BAE, LLAMAGEN, TAMING = LAYOUTS
Shapes = dict[str, tuple[int, ...]]


def bae_of_20_bits() -> Shapes:
    lines = (GOLDEN / "bae_state_dict.txt").read_text().splitlines()
    return {name: ast.literal_eval(shape) for name, shape in (line.split(" ", maxsplit=1) for line in lines)}


def conv(name: str, channels_in: int, channels_out: int, size: int = 3) -> Shapes:
    return {f"{name}.weight": (channels_out, channels_in, size, size), f"{name}.bias": (channels_out,)}


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def residual(name: str, channels_in: int, channels_out: int) -> Shapes:
    shapes = norm(f"{name}.norm1", channels_in) | conv(f"{name}.conv1", channels_in, channels_out)
    shapes |= norm(f"{name}.norm2", channels_out) | conv(f"{name}.conv2", channels_out, channels_out)
    return shapes | (conv(f"{name}.nin_shortcut", channels_in, channels_out, 1) if channels_in != channels_out else {})


def attention(name: str, channels: int) -> Shapes:
    shapes = norm(f"{name}.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= conv(f"{name}.{part}", channels, channels, 1)
    return shapes


def middle(names: list[str]) -> Shapes:
    return residual(names[0], 512, 512) | attention(names[1], 512) | residual(names[2], 512, 512)


def vqgan(dim: int, down: list[str], up: list[str], block: str, mids: list[str]) -> Shapes:
    """Return the f16 nets of 16,384 entries; `down` and `up` are the names of the levels, the finest first."""
    shapes = conv("encoder.conv_in", 3, 128) | conv("encoder.conv_out", 512, 256) | norm("encoder.norm_out", 512)
    shapes |= conv("decoder.conv_in", 256, 512) | conv("decoder.conv_out", 128, 3) | norm("decoder.norm_out", 128)
    shapes |= middle([f"encoder.{mid}" for mid in mids]) | middle([f"decoder.{mid}" for mid in mids])
    widths = [128, 128, 256, 256, 512]
    for level, width in enumerate(widths):
        encoder, decoder = f"encoder.{down[level]}", f"decoder.{up[level]}"
        for index in range(2):
            before = widths[max(level - 1, 0)] if index == 0 else width
            shapes |= residual(f"{encoder}.{block}.{index}", before, width)
            shapes |= attention(f"{encoder}.attn.{index}", width) if level == 4 else {}
        for index in range(3):
            before = widths[min(level + 1, 4)] if index == 0 else width
            shapes |= residual(f"{decoder}.{block}.{index}", before, width)
            shapes |= attention(f"{decoder}.attn.{index}", width) if level == 4 else {}
        shapes |= conv(f"{encoder}.downsample.conv", width, width) if level < 4 else {}
        shapes |= conv(f"{decoder}.upsample.conv", width, width) if level > 0 else {}
    shapes |= conv("quant_conv", 256, dim, 1) | conv("post_quant_conv", dim, 256, 1)
    return shapes | {"quantize.embedding.weight": (16_384, dim)}


def llamagen() -> Shapes:
    levels = [f"conv_blocks.{number}" for number in range(5)]
    return vqgan(8, levels, levels[::-1], "res", ["mid.0", "mid.1", "mid.2"])


def taming() -> Shapes:
    down, up = ([f"{name}.{level}" for level in range(5)] for name in ("down", "up"))
    return vqgan(256, down, up, "block", ["mid.block_1", "mid.attn_1", "mid.block_2"])


def on_meta(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


DEFAULTS = TokenizerConfig(directory=Path("t")).model_dump(exclude={"directory"})
VQGAN = {"kind": "vqgan", "code_bits": 14, "codebook_size": 16_384}
PUBLISHED: list[Any] = [
    pytest.param(BAE, bae_of_20_bits(), DEFAULTS | {"code_bits": 20}, id="bae"),
    pytest.param(LLAMAGEN, llamagen(), DEFAULTS | VQGAN, id="llamagen"),
    pytest.param(TAMING, taming(), DEFAULTS | VQGAN | {"codebook_dim": 256, "codebook_normalized": False}, id="taming"),
]


@pytest.mark.parametrize(("layout", "shapes", "architecture"), PUBLISHED)
def test_it_is_recognised_and_no_other(layout: Any, shapes: Shapes, architecture: dict[str, Any]) -> None:
    assert [candidate for candidate in LAYOUTS if candidate.is_of(on_meta(shapes))] == [layout]


@pytest.mark.parametrize(("layout", "shapes", "architecture"), PUBLISHED)
def test_the_shapes_tell_the_architecture(layout: Any, shapes: Shapes, architecture: dict[str, Any]) -> None:
    config = TokenizerConfig(directory=Path("t"), image_size=256, **layout.sizes(on_meta(shapes), 256))
    assert config.model_dump(exclude={"directory"}) == architecture


@pytest.mark.parametrize(("layout", "shapes", "architecture"), PUBLISHED)
def test_every_tensor_has_its_place(layout: Any, shapes: Shapes, architecture: dict[str, Any]) -> None:
    with torch.device("meta"):
        tokenizer = build_tokenizer(TokenizerConfig(directory=Path("t"), **architecture))
    publish = layout.publisher(tokenizer.config)
    ours = {publish(name): tuple(tensor.shape) for name, tensor in tokenizer.state_dict().items()}
    assert ours == {name: shape for name, shape in shapes.items() if name in ours}
    left_over = shapes.keys() - ours.keys()
    assert all(layout.is_unused(name) for name in left_over)
    if layout is BAE:  # skips of blocks that keep their channels: 10 in the encoder, 10 in the decoder, and a variance
        assert len(left_over) == 2 * (20 + 2)
    else:
        assert not left_over


def test_without_attention_in_the_levels() -> None:
    """The BAE of 512 pixels has attention in the middle alone."""
    shapes = bae_of_20_bits()
    encoder = {name: shape for name, shape in shapes.items() if not name.startswith("ae.encoder")}
    kept = [index for index in range(22) if index not in (14, 16)]
    for name, shape in shapes.items():
        if name.startswith("ae.encoder") and int(name.split(".")[3]) in kept:
            parts = name.split(".")
            parts[3] = str(kept.index(int(parts[3])))
            encoder[".".join(parts)] = shape
    sizes = BAE.sizes(on_meta(encoder), 512)
    assert sizes["attention_resolutions"] == ()
    assert sizes["channel_multipliers"] == (1, 1, 2, 2, 4)
    assert sizes["res_blocks"] == 2

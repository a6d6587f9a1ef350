"""The BAE: its published shapes and golden tensors, exact bits with a straight-through gradient, codes and back."""

import ast
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from skimage import data
from torch import Tensor, nn

from elm_dist.codes.packing import pack_bits, unpack_bits
from elm_dist.config import ImageSize, TokenizerConfig
from elm_dist.tokenizers.bae import BAE
from elm_dist.tokenizers.blocks import AttentionBlock
from elm_dist.tokenizers.draws import Draws

GOLDEN = Path(__file__).parents[1] / "golden"
CPU = torch.device("cpu")
TINY = TokenizerConfig(
    directory=Path("tokenizer"),
    code_bits=10,
    image_size=32,
    base_channels=32,
    channel_multipliers=(1, 2),
    res_blocks=1,
    attention_resolutions=(16,),
    embedding_channels=32,
)


def canonical_name(published: str) -> str:
    """Rename a key of the published layout to ours."""
    renames = {
        "ae.": "",
        ".blocks.": ".",
        "generator.": "decoder.",
        "quantize.proj.0.": "project.",
        "quantize.embed.": "embed.",
        ".conv_out.": ".skip.",
    }
    for old, new in renames.items():
        published = published.replace(old, new)
    return published


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Return the tensors of a published BAE of 20 bits, under our names."""
    lines = (GOLDEN / "bae_state_dict.txt").read_text().splitlines()
    pairs = (line.split(" ", maxsplit=1) for line in lines)
    return {canonical_name(name): ast.literal_eval(shape) for name, shape in pairs}


def is_unused(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a published tensor takes no part: a skip between equal channels, or the variance that nothing reads."""
    if "logsigma" in name:
        return True
    return name.endswith("skip.weight") and shape[0] == shape[1]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def photographs(size: int) -> Tensor:
    """Return two photographs' corners (2, 3, size, size) in [0, 1]."""
    images = [torch.from_numpy(image()[:size, :size].copy()) for image in (data.astronaut, data.coffee)]
    return torch.stack(images).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def tiny() -> BAE:
    torch.manual_seed(0)
    return BAE(TINY)


def test_golden_tensors_of_the_published_implementation() -> None:
    note = json.loads((GOLDEN / "bae_10.json").read_text())
    settings = {key: note[key] for key in note.keys() & set(TokenizerConfig.model_fields) - {"kind"}}
    config = TokenizerConfig(**TINY.model_dump() | settings)
    bae = BAE(config).eval()
    weights = {canonical_name(key): value for key, value in load_file(GOLDEN / "bae_10.weights.safetensors").items()}
    bae.load_state_dict({key: weights[key] for key in bae.state_dict()})
    expected = load_file(GOLDEN / "bae_10.tensors.safetensors")
    with torch.no_grad():
        probabilities = bae.encode(expected["images"])
        bits = bae.quantize(probabilities)
        reconstruction = bae.decode(bits)
    torch.testing.assert_close(probabilities, expected["probabilities"], atol=1e-4, rtol=0)
    torch.testing.assert_close(bits, expected["bits"].float(), atol=0, rtol=0)
    torch.testing.assert_close(reconstruction, expected["reconstruction"], atol=1e-4, rtol=0)


def test_the_default_is_the_published_net_less_its_unused_tensors() -> None:
    with torch.device("meta"):
        bae = BAE(TokenizerConfig(directory=Path("tokenizer"), code_bits=20))
    published = published_shapes()
    assert len(published) == 337
    ours = {name: tuple(tensor.shape) for name, tensor in bae.state_dict().items()}
    unused = {name for name, shape in published.items() if is_unused(name, shape)}
    unused |= {name.replace("weight", "bias") for name in unused}
    assert ours == {name: shape for name, shape in published.items() if name not in unused}


@pytest.mark.parametrize(("bits", "quantizer"), [(16, 8_208), (20, 10_260), (24, 12_312), (32, 16_416)])
def test_parameter_counts(bits: int, quantizer: int) -> None:
    with torch.device("meta"):
        bae = BAE(TokenizerConfig(directory=Path("tokenizer"), code_bits=bits))
    assert count(bae.project) + count(bae.embed) == quantizer
    # Unused 1 x 1 skips, c x (c + 1) each: 4 of 128, 3 of 256 and 3 of 512 channels in the encoder.
    assert count(bae.encoder) + 4 * 128 * 129 + 3 * 256 * 257 + 3 * 512 * 513 == 30_349_568
    # In the generator 3 of 128, 3 of 256 and 4 of 512, and a variance head: conv3 128 -> 128, conv1 128 -> 3.
    variance = 128 * (128 * 9 + 1) + 3 * 129
    assert count(bae.decoder) + 3 * 128 * 129 + 3 * 256 * 257 + 4 * 512 * 513 + variance == 35_168_774


def test_every_parameter_is_used(tiny: BAE) -> None:
    reconstruction, _ = tiny(photographs(32), Draws(0, 0, range(2), CPU))
    reconstruction.square().mean().backward()
    assert [name for name, parameter in tiny.named_parameters() if parameter.grad is None] == []


def test_attention_is_where_the_configuration_says() -> None:
    config = TINY.model_copy(update={"channel_multipliers": (1, 1, 2), "attention_resolutions": (16,), "res_blocks": 2})
    bae = BAE(config)
    encoder = [type(layer).__name__.removesuffix("Block")[:4] for layer in bae.encoder]
    level_32, level_16, level_8 = ["Resi"] * 2, ["Resi", "Atte"] * 2, ["Resi"] * 2
    middle = ["Resi", "Atte", "Resi"]
    assert encoder == ["Conv", *level_32, "Down", *level_16, "Down", *level_8, *middle, "Grou", "Conv"]
    decoder = [type(layer).__name__.removesuffix("Block")[:4] for layer in bae.decoder]
    assert decoder == ["Grou", "Conv", *middle, *level_8, "Upsa", *level_16, "Upsa", *level_32, "Grou", "Conv"]


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_patches_fold_pixels_into_channels(patch_size: int) -> None:
    changes = {"patch_size": patch_size, "attention_resolutions": ()}
    bae = BAE(TINY.model_copy(update=changes)).eval()
    images = photographs(32)
    grid = 32 // (2 * patch_size)
    reconstruction, probabilities = bae(images)
    assert bae.config.grid == (grid, grid)
    assert probabilities.shape == (2, 10, grid, grid)
    assert reconstruction.shape == images.shape


@pytest.mark.parametrize("size", [ImageSize(16, 32), ImageSize(32, 24)])
def test_the_codes_of_an_image_that_is_not_square_come_back_in_place(size: ImageSize) -> None:
    bae = BAE(TINY.model_copy(update={"image_size": size, "attention_resolutions": (min(size) // 2,)})).eval()
    assert sum(isinstance(layer, AttentionBlock) for layer in bae.encoder) == 2  # of the level, and of the middle
    images = photographs(32)[:, :, : size.height, : size.width]
    bits = (bae.encode(images) > 0.5).float()
    assert bits.shape == (2, 10, size.height // 2, size.width // 2)
    found = bae.images_from_codes(bae.image_codes(images))
    assert found.shape == images.shape
    torch.testing.assert_close(found, bae.decode(bits).clamp(0, 1))


def test_the_weights_fit_a_larger_image_where_attention_stays_at_its_level() -> None:
    small = BAE(TINY)
    large = BAE(TINY.model_copy(update={"image_size": ImageSize(64, 96), "attention_resolutions": (32,)})).eval()
    large.load_state_dict(small.state_dict())
    images = torch.zeros(1, 3, 64, 96)
    assert large.images_from_codes(large.image_codes(images)).shape == images.shape


def test_a_patch_is_decoded_where_it_was_encoded() -> None:
    config = TINY.model_copy(update={"patch_size": 4, "channel_multipliers": (1,), "attention_resolutions": ()})
    bae = BAE(config)
    bae.encoder, bae.decoder = nn.Sequential(nn.Identity()), nn.Sequential(nn.Identity())
    bae.project, bae.embed = nn.Identity(), nn.Embedding.from_pretrained(torch.eye(48))
    images = photographs(32)
    torch.testing.assert_close(bae.decode(torch.logit(bae.encode(images), eps=1e-6)), images, atol=1e-4, rtol=0)


def test_training_draws_bits_with_their_probability(tiny: BAE) -> None:
    probabilities = torch.full((1, 10, 100, 100), 0.3)
    bits = tiny.train().quantize(probabilities, Draws(0, 0, range(1), CPU))
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    assert bits.mean().item() == pytest.approx(0.3, abs=0.006)  # 4 standard errors of 100,000 draws
    again = tiny.quantize(probabilities, Draws(0, 0, range(1), CPU))
    other = tiny.quantize(probabilities, Draws(1, 0, range(1), CPU))
    assert torch.equal(bits, again)
    assert not torch.equal(bits, other)


@pytest.mark.parametrize(("quantization", "training"), [("deterministic", True), ("bernoulli", False)])
def test_other_bits_are_thresholded(quantization: str, training: bool) -> None:
    bae = BAE(TINY.model_copy(update={"quantization": quantization})).train(training)
    probabilities = torch.tensor([0.1, 0.5, 0.500001, 0.9])
    assert bae.quantize(probabilities).tolist() == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("quantization", ["bernoulli", "deterministic"])
def test_the_gradient_passes_straight_through(quantization: str) -> None:
    bae = BAE(TINY.model_copy(update={"quantization": quantization})).train()
    probabilities = torch.rand(2, 10, 4, 4, requires_grad=True)
    weights = torch.randn(2, 10, 4, 4)
    (bae.quantize(probabilities, Draws(0, 0, range(2), CPU)) * weights).sum().backward()
    assert torch.equal(probabilities.grad, weights)


def test_codes_are_the_packed_bits_in_raster_order(tiny: BAE) -> None:
    images = photographs(32)
    codes = tiny.image_codes(images)  # in training mode too
    assert codes.dtype == torch.uint8
    assert codes.shape == (2, 16 * 16 * 10 // 8)
    with torch.no_grad():
        bits = tiny.eval().quantize(tiny.encode(images))
    expected = [bits[0, channel, row, column] for row in range(16) for column in range(16) for channel in range(10)]
    assert torch.equal(codes[0], pack_bits(torch.stack(expected)[None])[0])


def test_images_come_from_packed_codes_and_from_bits_alike(tiny: BAE) -> None:
    codes = tiny.eval().image_codes(photographs(32))
    images = tiny.images_from_codes(codes)
    assert torch.equal(images, tiny.images_from_codes(unpack_bits(codes, tiny.code_shape)))
    reconstruction, _ = tiny(photographs(32))
    torch.testing.assert_close(images, reconstruction.clamp(0, 1))
    wild = nn.Parameter(tiny.decoder[-1].bias + 100)
    tiny.decoder[-1].bias = wild
    assert tiny.images_from_codes(codes).max() == 1.0

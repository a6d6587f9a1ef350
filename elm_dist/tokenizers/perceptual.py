"""How unlike two images look, measured in the features of a trained net whose weights lie on this machine.

`lpips_vgg` is LPIPS: VGG16 with a learned weight for each channel. `mobilenet_v2` weighs the channels of MobileNetV2
alike; it is what small images and machines without VGG's half a gigabyte have. Nothing is fetched from anywhere.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.config import TokenizerTrainingConfig
from elm_dist.errors import TokenizerError
from elm_dist.tokenizers.mobilenet import build_mobilenet, find_mobilenet_weights
from elm_dist.tokenizers.published import load_published

MOBILENET_TAPS = (1, 3, 6, 13, 17)  # the last block of each resolution
VGG_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGG_TAPS = (3, 8, 15, 22, 29)  # the last activation of each resolution


class PerceptualLoss(nn.Module):
    """The distance of images in the layers `taps` of `features`, which stay as they are.

    `heads` has one weight per channel of each tap; without them all count alike.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: nn.Sequential, taps: tuple[int, ...], heads: list[Tensor] | None = None) -> None:
        super().__init__()
        self.features, self.taps = features, taps
        self.heads = nn.ParameterList(heads or [torch.ones(1)] * len(taps))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))  # ImageNet's
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        """Return a scalar, 0 for equal images, for images (batch, 3, H, W) in [0, 1]."""
        distance = images.new_zeros(())
        for found, wanted, head in zip(self._tap(reconstruction), self._tap(images), self.heads, strict=True):
            difference = (F.normalize(found, eps=1e-10) - F.normalize(wanted, eps=1e-10)).square()
            distance = distance + (difference * head.view(-1, 1, 1)).sum(dim=1).mean()
        return distance

    def _tap(self, images: Tensor) -> Iterator[Tensor]:
        hidden = (images - self.mean) / self.deviation
        for index, layer in enumerate(self.features):
            hidden = layer(hidden)
            if index in self.taps:
                yield hidden.float()


def build_perceptual(training: TokenizerTrainingConfig) -> PerceptualLoss | None:
    """Return the loss that `training.perceptual` names, or None; raises TokenizerError if its weights are not there."""
    if training.perceptual == "none":
        return None
    if training.perceptual == "mobilenet_v2":
        net = nn.Sequential(*list(build_mobilenet())[: MOBILENET_TAPS[-1] + 1])
        path = find_mobilenet_weights(
            "tokenizer_training.perceptual=mobilenet_v2", "tokenizer_training.perceptual=none"
        )
        _load(net, path, "torchvision's MobileNetV2")
        return PerceptualLoss(net, MOBILENET_TAPS)
    net = _build_vgg()
    _load(net, training.vgg_weights, "torchvision's VGG16 (vgg16-397923af.pth)", "vgg_weights")
    heads = [nn.Conv2d(widths[-1], 1, 1, bias=False) for widths in VGG_WIDTHS]
    _load(nn.ModuleList(heads), training.lpips_weights, "LPIPS 0.1 for VGG (vgg.pth)", "lpips_weights")
    return PerceptualLoss(net, VGG_TAPS, [head.weight.detach().flatten() for head in heads])


def _build_vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for widths in VGG_WIDTHS:
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-1])


def _load(net: nn.Module, path: Path, what: str, setting: str = "perceptual") -> None:
    """Load the tensors of `net` from a file that may have more: a classifier, or the net that the heads belong to."""
    remedy = f"put them there, change tokenizer_training.{setting}, or set tokenizer_training.perceptual=none"
    if not path.is_file():
        raise TokenizerError(f"{path}: there is no such file, which must hold the weights of {what}; {remedy}")
    stored = load_published(path)
    try:
        names = {name: name.removeprefix("features.") for name in stored}
        names |= {name: name.removeprefix("lin").replace(".model.1.", ".") for name in stored if name.startswith("lin")}
        wanted = net.state_dict()
        net.load_state_dict({ours: stored[name] for name, ours in names.items() if ours in wanted})
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = textwrap.shorten(" ".join(str(error).split()), 200)
        raise TokenizerError(f"{path}: these are not the weights of {what} ({reason}); {remedy}") from None

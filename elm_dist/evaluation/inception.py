"""The Inception v3 that FID is defined by: the TensorFlow graph of 2015-12-05, with all that scores take from it.

Tensors are named as in its PyTorch port, `pt_inception-2015-12-05-6726825d.pth`. It differs from torchvision's net in
how images are scaled, in average pools that leave out the padding, and in the last block, whose pool is a maximum.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

DIMENSION = 2048
CLASSES = 1008
INPUT_SIZE = 299
SPATIAL_CHANNELS = 7  # of the 192 that ADM's "mixed_6/conv" has, which is `Mixed_6d.branch1x1` here
SPATIAL_DIMENSION = 17 * 17 * SPATIAL_CHANNELS

# The branches of a block, each a chain of convolutions: channels@height x width. Those with | between lie side by side.
HALVING_35 = {"branch3x3": "384@3x3", "branch3x3dbl": "64@1x1 96@3x3 96@3x3"}
HALVING_17 = {"branch3x3": "192@1x1 320@3x3", "branch7x7x3": "192@1x1 192@1x7 192@7x1 192@3x3"}
GRID_8 = {
    "branch1x1": "320@1x1",
    "branch3x3": "384@1x1 384@1x3|384@3x1",
    "branch3x3dbl": "448@1x1 384@3x3 384@1x3|384@3x1",
    "branch_pool": "192@1x1",
}


def grid_35(pooled: int) -> dict[str, str]:
    return {
        "branch1x1": "64@1x1",
        "branch5x5": "48@1x1 64@5x5",
        "branch3x3dbl": "64@1x1 96@3x3 96@3x3",
        "branch_pool": f"{pooled}@1x1",
    }


def grid_17(width: int) -> dict[str, str]:
    return {
        "branch1x1": "192@1x1",
        "branch7x7": f"{width}@1x1 {width}@1x7 192@7x1",
        "branch7x7dbl": f"{width}@1x1 {width}@7x1 {width}@1x7 {width}@7x1 192@1x7",
        "branch_pool": "192@1x1",
    }


class ConvNorm(nn.Module):
    """A convolution with "channels@height x width" filters, batch norm and ReLU."""

    def __init__(self, channels_in: int, filters: str, stride: int = 1, *, padded: bool = True) -> None:
        super().__init__()
        channels, height, width = map(int, filters.replace("@", "x").split("x"))
        padding = (height // 2, width // 2) if padded else 0
        self.conv = nn.Conv2d(channels_in, channels, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=0.001)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(features)))


class Mixed(nn.Module):
    """Branches side by side. `branch_pool` pools first; a block that halves the grid has a branch that only pools."""

    def __init__(self, channels_in: int, branches: dict[str, str], pool: nn.Module, *, halves: bool = False) -> None:
        super().__init__()
        self.pool, self.halves = pool, halves
        self.branches: dict[str, list[list[str]]] = {}  # for each step of each branch, the names of its convolutions
        for branch, chain in branches.items():
            steps, channels = chain.split(), channels_in
            self.branches[branch] = []
            for index, step in enumerate(steps):
                number = f"_{index + 1}" if len(steps) > 1 else ""
                names = [branch + number + letter for letter in ("ab" if "|" in step else [""])]
                strides = halves and index == len(steps) - 1  # the last one halves the grid
                for name, filters in zip(names, step.split("|"), strict=True):
                    self.add_module(name, ConvNorm(channels, filters, 2 if strides else 1, padded=not strides))
                self.branches[branch].append(names)
                channels = int(step.partition("@")[0])

    def forward(self, features: Tensor) -> Tensor:
        outputs = []
        for branch, steps in self.branches.items():
            hidden = self.pool(features) if branch == "branch_pool" else features
            for names in steps:
                hidden = torch.cat([self.get_submodule(name)(hidden) for name in names], dim=1)
            outputs.append(hidden)
        return torch.cat([*outputs, self.pool(features)] if self.halves else outputs, dim=1)


class PixelScaling(nn.Module):
    """Brings pixels (batch, 3, height, width) in [0, 1] to 299 x 299 in about [-1, 1], as that graph does."""

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = (_interpolation(size, images) for size in images.shape[2:])
        return (rows @ (images * 255) @ columns.T - 128) / 128


class InceptionFeatures(NamedTuple):
    """What scores are made of (Dhariwal & Nichol 2021, "ADM")."""

    pooled: Tensor  # (batch, 2048): FID, precision, recall
    spatial: Tensor  # (batch, 2023), position by position, as a TensorFlow tensor lies: sFID
    logits: Tensor  # (batch, 1008), without the bias, as Inception Score has always been computed


class Inception(nn.Sequential):
    """Images (batch, 3, height, width) in [0, 1] -> pooled features (batch, 2048), which come before the last layer."""

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).pooled

    def features(self, images: Tensor) -> InceptionFeatures:
        """Return all features of images (batch, 3, height, width) in [0, 1] from one pass."""
        *layers, (_, classifier) = zip(self._modules, self, strict=True)  # named_children() skips a pool used twice
        hidden = images
        for name, layer in layers:
            if name == "Mixed_6d":  # a hundredth of the net is computed twice, and no hook is needed
                convolved = layer.get_submodule("branch1x1")(hidden)
                spatial = convolved[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
            hidden = layer(hidden)
        return InceptionFeatures(hidden, spatial, classifier(hidden))


def build_inception() -> Inception:
    """Return the net, its weights as torch draws them."""
    average = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    maximum, halving = nn.MaxPool2d(3, stride=1, padding=1), nn.MaxPool2d(3, stride=2)
    layers = OrderedDict[str, nn.Module](
        scaling=PixelScaling(),
        Conv2d_1a_3x3=ConvNorm(3, "32@3x3", 2, padded=False),
        Conv2d_2a_3x3=ConvNorm(32, "32@3x3", padded=False),
        Conv2d_2b_3x3=ConvNorm(32, "64@3x3"),
        pool_1=halving,
        Conv2d_3b_1x1=ConvNorm(64, "80@1x1"),
        Conv2d_4a_3x3=ConvNorm(80, "192@3x3", padded=False),
        pool_2=halving,
        Mixed_5b=Mixed(192, grid_35(pooled=32), average),
        Mixed_5c=Mixed(256, grid_35(pooled=64), average),
        Mixed_5d=Mixed(288, grid_35(pooled=64), average),
        Mixed_6a=Mixed(288, HALVING_35, halving, halves=True),
        Mixed_6b=Mixed(768, grid_17(width=128), average),
        Mixed_6c=Mixed(768, grid_17(width=160), average),
        Mixed_6d=Mixed(768, grid_17(width=160), average),
        Mixed_6e=Mixed(768, grid_17(width=192), average),
        Mixed_7a=Mixed(768, HALVING_17, halving, halves=True),
        Mixed_7b=Mixed(1280, GRID_8, average),
        Mixed_7c=Mixed(DIMENSION, GRID_8, maximum),
        pool_3=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(DIMENSION, CLASSES, bias=False),
    )
    return Inception(layers)


def _interpolation(size: int, like: Tensor) -> Tensor:
    """Return the matrix (299, size) of TensorFlow 1's bilinear scaling: pixel i lies at i x size / 299, unfiltered."""
    source = torch.arange(INPUT_SIZE, device=like.device, dtype=torch.float64) * size / INPUT_SIZE
    lower = source.long()
    share = source - lower
    pixels = torch.arange(size, device=like.device)
    weights = (pixels == lower[:, None]) * (1 - share[:, None])
    weights += (pixels == (lower[:, None] + 1).clamp(max=size - 1)) * share[:, None]
    return weights.to(like.dtype)

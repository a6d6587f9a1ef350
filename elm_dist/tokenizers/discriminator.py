"""Tells photographs from reconstructions, patch by patch, so that the tokenizer learns to draw texture.

PatchGAN with hinge losses, and DiffAugment, which keeps it from learning few images by heart. Its norms and its weight
look at the whole batch: where processes share that, `average` gives the mean of what each of them has. Knows nothing of
tokenizers.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.tokenizers.draws import Draws

CHANNELS = (64, 128, 256, 512)

Average = Callable[[Tensor], Tensor]  # over processes, and gradients flow back through it


def alone(tensor: Tensor) -> Tensor:
    """Average over one process."""
    return tensor


class PatchDiscriminator(nn.Sequential):
    """Images (batch, 3, H, W) in [0, 1] to logits (batch, 1, H/8 - 2, W/8 - 2), high for photographs."""

    def __init__(self, average: Average = alone) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, CHANNELS[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for channels, width in pairwise(CHANNELS):
            stride = 1 if width == CHANNELS[-1] else 2
            layers.append(nn.Conv2d(channels, width, 4, stride=stride, padding=1, bias=False))
            layers += [BatchNorm(width, average), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(CHANNELS[-1], 1, 4, padding=1))
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
            elif isinstance(layer, BatchNorm):
                nn.init.normal_(layer.weight, 1.0, 0.02)


class BatchNorm(nn.Module):
    """Norm of each channel over the images of all processes; never evaluated, so it keeps no running statistics."""

    def __init__(self, channels: int, average: Average, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.average, self.epsilon = average, epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Norm `x` (batch, channels, height, width), in fp32."""
        x = x.float()
        centred = x - self.average(x.mean(dim=(0, 2, 3), keepdim=True))
        variance = self.average(centred.square().mean(dim=(0, 2, 3), keepdim=True))
        scale = self.weight[:, None, None] * torch.rsqrt(variance + self.epsilon)
        return centred * scale + self.bias[:, None, None]


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return what a discriminator makes small, of its logits for photographs and for reconstructions."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(
    wanted: Tensor, adversarial: Tensor, last_weight: Tensor, largest: float, average: Average = alone
) -> Tensor:
    """Return the weight at which `adversarial` pulls as hard as `wanted` at the decoder's last layer, up to `largest`.

    Both are scalar losses whose graphs are kept; `last_weight` is that layer's.
    """
    (towards,) = torch.autograd.grad(wanted, last_weight, retain_graph=True)
    (away,) = torch.autograd.grad(adversarial, last_weight, retain_graph=True)
    towards, away = average(towards), average(away)
    return (towards.norm() / (away.norm() + 1e-4)).clamp(0, largest).detach()


def diff_augment(images: Tensor, draws: Draws) -> Tensor:
    """Change the colours and the place of each image (batch, 3, H, W) at random, in a way that gradients pass."""
    count, _, *size = images.shape
    images = images + (draws.uniform(1, 1, 1) - 0.5)  # brightness
    images = _spread(images, dims=[1], by=draws.uniform(1, 1, 1) * 2)  # saturation
    images = _spread(images, dims=[1, 2, 3], by=draws.uniform(1, 1, 1) + 0.5)  # contrast
    reach = [side // 8 for side in size]
    places = draws.uniform(2) * (2 * torch.tensor(reach, device=images.device) + 1)
    starts = zip(places.long().T, size, strict=True)
    rows, columns = (start[:, None] + torch.arange(side, device=images.device) for start, side in starts)
    padded = F.pad(images, (reach[1], reach[1], reach[0], reach[0]))
    batch = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _spread(images: Tensor, dims: list[int], by: Tensor) -> Tensor:
    mean = images.mean(dim=dims, keepdim=True)
    return (images - mean) * by + mean

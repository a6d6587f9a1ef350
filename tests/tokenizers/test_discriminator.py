"""The discriminator: its published size, its losses by hand, the weight that adapts, and what DiffAugment changes."""

import pytest
import torch
from skimage import data
from torch import Tensor

from elm_dist.tokenizers.discriminator import PatchDiscriminator, adaptive_weight, diff_augment, hinge_loss
from elm_dist.tokenizers.draws import Draws


def draws(seed: int, images: int) -> Draws:
    return Draws(seed, 0, range(images), torch.device("cpu"))


@pytest.fixture
def images() -> Tensor:
    tiles = [torch.from_numpy(image()[:32, :32].copy()) for image in (data.astronaut, data.coffee)] * 2
    return torch.stack(tiles).permute(0, 3, 1, 2).float() / 255


def test_it_is_the_published_net() -> None:
    # 4 x 4 convolutions, norms with 2 numbers a channel, and biases where no norm follows.
    expected = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 2 * (128 + 256 + 512) + 1
    assert sum(parameter.numel() for parameter in PatchDiscriminator().parameters()) == expected == 2_765_633


@pytest.mark.parametrize(
    ("size", "patches"), [((24, 24), (1, 1)), ((32, 32), (2, 2)), ((256, 256), (30, 30)), ((24, 40), (1, 3))]
)
def test_one_logit_for_each_patch(size: tuple[int, int], patches: tuple[int, int]) -> None:
    assert PatchDiscriminator()(torch.rand(2, 3, *size)).shape == (2, 1, *patches)


def test_hinge() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0, 1.0])
    assert hinge_loss(real, fake).item() == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3))


def test_it_learns_to_tell_photographs_from_noise(images: Tensor) -> None:
    torch.manual_seed(0)
    net = PatchDiscriminator()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    noise = torch.rand(images.shape)
    losses = []
    for _ in range(15):
        loss = hinge_loss(net(images), net(noise))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.8
    assert losses[-1] < 0.2


@pytest.mark.parametrize(("strength", "expected"), [(2.0, 0.5), (0.5, 1.0), (0.0, 1.0)])
def test_the_weight_balances_the_gradients_up_to_its_bound(strength: float, expected: float) -> None:
    last = torch.tensor([3.0, 4.0], requires_grad=True)
    weight = adaptive_weight(last.sum(), strength * last.sum(), last, largest=1.0)
    assert weight.item() == pytest.approx(expected, abs=1e-3)
    assert not weight.requires_grad


def test_augmentation_follows_the_draws_and_passes_gradients(images: Tensor) -> None:
    first, again, other = (diff_augment(images, draws(seed, 4)) for seed in (0, 0, 1))
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[2])  # the same tile, drawn for anew
    leaf = images.clone().requires_grad_()
    diff_augment(leaf, draws(0, 4)).sum().backward()
    assert (leaf.grad != 0).float().mean() > 0.7  # what is shifted out of the image has none


def test_augmentation_shifts_by_an_eighth_at_most() -> None:
    marks = torch.zeros(200, 3, 32, 32)
    marks[:, :, 16, 16] = 1
    shifted = diff_augment(marks, draws(0, 200)).mean(dim=1)  # saturation moves no mean
    inside = shifted[:, 8:24, 8:24].flatten(1)
    places = inside.argmax(dim=1)
    found = torch.stack([places // 16, places % 16]) - 8
    assert (found.min().item(), found.max().item()) == (-4, 4)


def test_augmentation_shifts_by_an_eighth_of_each_side() -> None:
    marks = torch.zeros(200, 3, 16, 32)
    marks[:, :, 8, 16] = 1
    shifted = diff_augment(marks, draws(0, 200)).mean(dim=1)
    assert shifted.shape == (200, 16, 32)
    places = shifted[:, 4:12, 8:24].flatten(1).argmax(dim=1)
    down, right = places // 16 - 4, places % 16 - 8
    assert (down.min().item(), down.max().item()) == (-2, 2)
    assert (right.min().item(), right.max().item()) == (-4, 4)

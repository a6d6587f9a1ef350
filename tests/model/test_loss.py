import math

import pytest
import torch
import torch.nn.functional as F

from elm_dist.codes.packing import unpack_subtokens
from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import LossConfig
from elm_dist.model.loss import CodeLoss, MaskedCodeLoss, hamming_loss
from elm_dist.model.masking import append_mask

SHAPE = CodeShape(positions=6, subtokens=2, subtoken_bits=4)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(3, 6, 2, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.fixture
def packed() -> torch.Tensor:
    return torch.randint(0, 256, (3, 6), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_smoothed_labels_are_torch_s(logits: torch.Tensor, packed: torch.Tensor) -> None:
    targets = unpack_subtokens(packed, SHAPE)
    found = CodeLoss(SHAPE, LossConfig(label_smoothing=0.1))(logits, packed)
    expected = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), label_smoothing=0.1)
    torch.testing.assert_close(found, expected)


def test_what_is_kept_is_the_plain_cross_entropy(logits: torch.Tensor, packed: torch.Tensor) -> None:
    plain, varied = CodeLoss(SHAPE), CodeLoss(SHAPE, LossConfig(label_smoothing=0.1, z_loss=0.1, hamming_distance=2))
    assert plain(logits, packed).item() != pytest.approx(varied(logits, packed).item())
    assert torch.equal(plain.sums, varied.sums)


def test_the_z_loss_is_that_of_the_denominator(logits: torch.Tensor, packed: torch.Tensor) -> None:
    plain = CodeLoss(SHAPE)(logits, packed)
    found = CodeLoss(SHAPE, LossConfig(z_loss=1e-2))(logits, packed)
    torch.testing.assert_close(found - plain, 1e-2 * (logits.exp().sum(dim=3).log() ** 2).mean())


@pytest.mark.parametrize("distance", [1, 2, 4, 9])
def test_soft_labels_fall_with_the_bits_that_differ(logits: torch.Tensor, packed: torch.Tensor, distance: int) -> None:
    """The definition, over all entries: weights exp(-3 n) within the distance, that sum to one."""
    targets = unpack_subtokens(packed, SHAPE)
    entries = torch.arange(16)
    differing = (
        (targets.unsqueeze(-1) ^ entries).unsqueeze(-1).bitwise_right_shift(torch.arange(4)).bitwise_and(1).sum(-1)
    )
    weights = torch.where(differing <= distance, torch.exp(-3.0 * differing), 0.0)
    expected = -(weights / weights.sum(-1, keepdim=True) * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(hamming_loss(logits, targets, distance), expected)


def test_hamming_soft_labels_have_a_floor_that_is_their_entropy() -> None:
    weights = torch.tensor([1.0, *[math.exp(-3)] * 4])
    shares = weights / weights.sum()
    best = torch.full((1, 16), -1e4)
    best[0, [5, 5 ^ 1, 5 ^ 2, 5 ^ 4, 5 ^ 8]] = shares.log()
    loss = hamming_loss(best, torch.tensor([5]), 1)
    assert loss.item() == pytest.approx(-(shares * shares.log()).sum().item(), rel=1e-5)


def test_only_hidden_codes_count(logits: torch.Tensor, packed: torch.Tensor) -> None:
    is_hidden = torch.zeros(3, 6, dtype=torch.bool)
    is_hidden[0, 1] = is_hidden[2, 3] = is_hidden[2, 4] = True
    loss = MaskedCodeLoss(SHAPE)
    value = loss(logits, append_mask(packed, is_hidden))
    targets = unpack_subtokens(packed, SHAPE)
    expected = F.cross_entropy(logits[is_hidden].flatten(0, 1), targets[is_hidden].flatten())
    torch.testing.assert_close(value, expected)
    value.backward()
    assert torch.equal(logits.grad.abs().sum(dim=(2, 3)) > 0, is_hidden)
    *sums, count = loss.sums.tolist()
    assert count == 3
    assert sum(sums[:2]) / 6 == pytest.approx(value.item())

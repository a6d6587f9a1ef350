"""The parts of the tokenizer's loss: their values, and what each one's gradient moves."""

import pytest
import torch

from elm_dist.config import TokenizerTrainingConfig
from elm_dist.tokenizers.losses import codebook_parts, reconstruction_parts
from elm_dist.tokenizers.perceptual import PerceptualLoss
from elm_dist.tokenizers.vqgan import Quantized

IMAGES = torch.tensor([0.0, 0.5, 1.0]).expand(2, 3, 4, 3)
ERRORS = torch.tensor([0.3, -0.1, 0.2])


def test_the_mean_absolute_error() -> None:
    reconstruction = (IMAGES + ERRORS).requires_grad_()
    parts = reconstruction_parts(reconstruction, IMAGES, TokenizerTrainingConfig(), None)
    assert list(parts) == ["l1"]
    torch.testing.assert_close(parts["l1"], torch.tensor(0.2))
    parts["l1"].backward()
    torch.testing.assert_close(
        reconstruction.grad * reconstruction.numel(), torch.tensor([1.0, -1, 1]).expand(2, 3, 4, 3)
    )


def test_the_mean_squared_error() -> None:
    parts = reconstruction_parts(IMAGES + ERRORS, IMAGES, TokenizerTrainingConfig(reconstruction="l2"), None)
    assert list(parts) == ["l2"]
    torch.testing.assert_close(parts["l2"], torch.tensor((0.09 + 0.01 + 0.04) / 3))


def test_the_perceptual_part_has_its_weight() -> None:
    perceptual = PerceptualLoss(torch.nn.Sequential(torch.nn.Identity()), (0,))
    training = TokenizerTrainingConfig(perceptual_weight=0.5)
    parts = reconstruction_parts(IMAGES.flip(1, 3), IMAGES, training, perceptual)
    assert list(parts) == ["l1", "perceptual"]
    torch.testing.assert_close(parts["perceptual"], 0.5 * perceptual(IMAGES.flip(1, 3), IMAGES))
    assert parts["perceptual"] > 0


def test_a_codebook_and_its_encoder_are_drawn_to_each_other() -> None:
    vectors = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).requires_grad_()
    entries = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).requires_grad_()
    parts = codebook_parts(Quantized(vectors, entries, torch.zeros(1, 1, 1, dtype=torch.int64)), commitment_weight=0.25)
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {"codebook": (0.25 + 1) / 2, "commitment": 0.25 * (0.25 + 1) / 2}
    )
    torch.stack(list(parts.values())).sum().backward()
    assert entries.grad.flatten().tolist() == pytest.approx([0.5, -1.0])
    assert vectors.grad.flatten().tolist() == pytest.approx([0.25 * -0.5, 0.25 * 1.0])


def test_probabilities_have_no_codebook() -> None:
    assert codebook_parts(torch.rand(2, 10, 2, 2), commitment_weight=0.25) == {}

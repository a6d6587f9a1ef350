"""PSNR and the ratio to the mean image, against a BAE that repeats what it is given and numbers worked out by hand."""

import math
from pathlib import Path

import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from elm_dist.config import TokenizerConfig
from elm_dist.evaluation.reconstruction import compute_mean_image, measure_reconstruction
from elm_dist.tokenizers.bae import BAE


@pytest.fixture
def bae() -> BAE:
    torch.manual_seed(0)
    config = TokenizerConfig(
        directory=Path("tokenizer"),
        image_size=32,
        patch_size=4,
        base_channels=32,
        channel_multipliers=(1,),
        attention_resolutions=(),
        embedding_channels=32,
    )
    return BAE(config)


def tiles() -> Tensor:
    """Return ten tiles of a photograph (10, 3, 32, 32) in [0, 1]."""
    strip = torch.from_numpy(data.astronaut()[100:132, 50:370].copy())
    return strip.unflatten(1, (10, 32)).permute(1, 3, 0, 2).float() / 255


def test_the_mean_image_does_not_depend_on_the_batches() -> None:
    images = tiles()
    torch.testing.assert_close(compute_mean_image(images.split(3)), images.mean(dim=0))


def test_scores_are_those_of_hard_bits(bae: BAE) -> None:
    images = tiles()
    mean_image = images.mean(dim=0)
    score = measure_reconstruction(bae.train(), images.split(4), mean_image)  # training mode must not draw bits
    with torch.no_grad():
        reconstruction = bae.decode((bae.encode(images) > 0.5).float()).clamp(0, 1)
    pairs = list(zip(images.numpy(), reconstruction.numpy(), strict=True))
    psnr = sum(peak_signal_noise_ratio(image, other, data_range=1) for image, other in pairs) / 10
    ratio = (images - mean_image).square().mean() / (images - reconstruction).square().mean()
    assert score.psnr_db == pytest.approx(psnr, abs=1e-4)
    assert score.mean_image_ratio == pytest.approx(ratio.item(), rel=1e-5)
    assert score.images == 10


def test_known_errors(bae: BAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reconstruction is replaced by the image plus a known error: 0.1 everywhere is 20 dB, 0.01 is 40 dB."""
    images = torch.full((2, 3, 32, 32), 0.5)
    errors = torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    monkeypatch.setattr(bae, "images_from_codes", lambda codes: images + errors)
    score = measure_reconstruction(bae, [images], torch.full((3, 32, 32), 0.3))
    assert score.psnr_db == pytest.approx(30, abs=1e-4)
    assert score.mean_image_ratio == pytest.approx(0.04 / ((0.01 + 0.0001) / 2), rel=1e-4)
    monkeypatch.setattr(bae, "images_from_codes", lambda codes: images)
    exact = measure_reconstruction(bae, [images], images[0])
    assert exact.psnr_db == pytest.approx(100)
    assert math.isnan(exact.mean_image_ratio)

"""How well a tokenizer gives images back from their codes. Knows nothing of files, training and class labels."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from elm_dist.tokenizers.build import Tokenizer

SSIM_WINDOW = 11  # pixels per side


@dataclass(frozen=True)
class ReconstructionScore:
    """What `measure_reconstruction` returns."""

    psnr_db: float  # mean over the images of each one's peak signal-to-noise ratio, in decibels
    mean_image_ratio: float  # squared error of always answering the mean image, over that of the reconstruction
    images: int


def compute_mean_image(batches: Iterable[Tensor]) -> Tensor:
    """Return the mean (3, H, W) of batches of images (batch, 3, H, W)."""
    sums = [(images.sum(dim=0, dtype=torch.float64), len(images)) for images in batches]
    return (torch.stack([total for total, _ in sums]).sum(dim=0) / sum(count for _, count in sums)).float()


@torch.no_grad()
def measure_reconstruction(tokenizer: Tokenizer, batches: Iterable[Tensor], mean_image: Tensor) -> ReconstructionScore:
    """Measure `tokenizer` on batches of images (batch, 3, H, W) in [0, 1], which lie on its device.

    `mean_image` (3, H, W) is that of the training images: a tokenizer whose `mean_image_ratio` is near 1 has learned
    nothing but their average.
    """
    errors, mean_errors = [], []
    for images in batches:
        reconstruction = tokenizer.images_from_codes(tokenizer.image_codes(images))
        errors.append(_squared_errors(reconstruction, images))
        mean_errors.append(_squared_errors(mean_image, images))
    error, mean_error = torch.cat(errors), torch.cat(mean_errors)
    return ReconstructionScore(
        psnr_db=_decibels(error).mean().item(),
        mean_image_ratio=(mean_error.mean() / error.mean()).item(),
        images=len(error),
    )


def measure_psnr(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Return each image's peak signal-to-noise ratio in dB, (batch,), for images (batch, 3, H, W) in [0, 1]."""
    return _decibels(_squared_errors(reconstruction, images))


def measure_ssim(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Return each image's structural similarity, (batch,), 1 for equal images (batch, 3, H, W) in [0, 1].

    As in Wang et al. 2004: a Gaussian window of 11 x 11 pixels, sigma 1.5, wherever all of it lies in the image;
    averaged over these places and the channels.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim  # takes a second to import

    _, windows = ssim(reconstruction, images, data_range=1.0, reduction="none", return_full_image=True)
    assert isinstance(windows, Tensor)
    border = SSIM_WINDOW // 2  # there it looks at mirrored pixels, too
    return windows[..., border:-border, border:-border].flatten(1).mean(dim=1)


def _decibels(squared_errors: Tensor) -> Tensor:
    return -10 * squared_errors.clamp_min(1e-10).log10()  # an exact image counts as 100 dB, not as infinitely many


def _squared_errors(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Return the mean squared error of each image, (batch,)."""
    return (reconstruction - images).double().square().flatten(1).mean(dim=1)

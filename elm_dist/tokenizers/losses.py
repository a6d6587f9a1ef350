"""What a tokenizer is trained to make small: a sum of named, weighted parts. Knows nothing of the nets that gave them.

The adversarial part is in `discriminator.py`.
"""

import torch.nn.functional as F
from torch import Tensor

from elm_dist.config import TokenizerTrainingConfig
from elm_dist.tokenizers.perceptual import PerceptualLoss
from elm_dist.tokenizers.vqgan import Quantized


def reconstruction_parts(
    reconstruction: Tensor, images: Tensor, training: TokenizerTrainingConfig, perceptual: PerceptualLoss | None
) -> dict[str, Tensor]:
    """Return how far images (batch, 3, H, W) in [0, 1] are from their originals, pixel by pixel and to the eye."""
    distance = F.l1_loss if training.reconstruction == "l1" else F.mse_loss
    parts: dict[str, Tensor] = {training.reconstruction: distance(reconstruction, images)}
    if perceptual is not None:
        parts["perceptual"] = training.perceptual_weight * perceptual(reconstruction, images)
    return parts


def codebook_parts(quantized: Tensor | Quantized, commitment_weight: float) -> dict[str, Tensor]:
    """Return what draws a codebook and its encoder to each other; a BAE's probabilities, which have none, cost nothing.

    `quantized` is what the tokenizer's forward pass gave beside the reconstruction.
    """
    if not isinstance(quantized, Quantized):
        return {}
    return {
        "codebook": F.mse_loss(quantized.entries, quantized.vectors.detach()),
        "commitment": commitment_weight * F.mse_loss(quantized.vectors, quantized.entries.detach()),
    }

"""What a tokenizer is trained to make small. Knows nothing of networks.

The loss is a sum of named, weighted parts: today the absolute error alone, beside which perceptual and adversarial
parts belong.
"""

import torch.nn.functional as F
from torch import Tensor


def reconstruction_loss(reconstruction: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the total to differentiate and its parts by name, all scalars, for images (batch, 3, S, S) in [0, 1]."""
    parts = {"l1": F.l1_loss(reconstruction, images)}
    return sum(parts.values(), start=images.new_zeros(())), parts

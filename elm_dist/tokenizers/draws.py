"""Random numbers of images in training. Each image has its own, whichever process holds it and whatever lies beside it.

Knows nothing of what they are for.
"""

import torch
from torch import Tensor

from elm_dist.randomness import derive_seed


class Draws:
    """Uniform numbers for the images of one update that have these numbers in its batch."""

    def __init__(self, seed: int, step: int, images: range, device: torch.device) -> None:
        self._generators = [
            torch.Generator(device).manual_seed(derive_seed(seed, "tokenizer draws", step, image)) for image in images
        ]

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers in [0, 1), (images, *shape); every call draws the next ones."""
        drawn = [torch.rand(shape, generator=each, device=each.device) for each in self._generators]
        return torch.stack(drawn)

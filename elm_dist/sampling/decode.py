"""From sub-tokens to pictures."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.codes.packing import subtokens_to_bits
from elm_dist.tokenizers.build import Tokenizer


def decode_images(tokenizer: Tokenizer, codes: Tensor, subtoken_bits: int) -> NDArray[np.uint8]:
    """Return the images (batch, size, size, 3) of sub-tokens (batch, positions, subtokens).

    One by one: how a convolution rounds depends on the size of its batch, and an image must not.
    """
    bits = subtokens_to_bits(codes, subtoken_bits)
    images = torch.cat([tokenizer.images_from_codes(image) for image in bits.split(1)])
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

"""Keeps a codebook in use: an entry that no image is near gets no gradient and would never be used again.

Knows nothing of losses and of files.
"""

import torch
from torch import Tensor

from elm_dist.tokenizers.vqgan import VQGAN, Quantized


@torch.no_grad()
def revive_entries(
    tokenizers: list[VQGAN], unused: Tensor, quantized: Quantized, after: int, generator: torch.Generator
) -> None:
    """Count one update into `unused`, (codebook_size,), and draw entries unused for `after` of them anew; 0 = never.

    They become vectors of the batch, chosen by `generator`, and the same ones in each of `tokenizers`: the one that is
    trained and its average. Adam's moments are left alone, having faded without a gradient.
    """
    unused += 1
    unused[quantized.ids.flatten()] = 0
    if not after:
        return
    dead = (unused >= after).nonzero().squeeze(1)
    vectors = quantized.vectors.permute(0, 2, 3, 1).flatten(0, 2)
    chosen = torch.randint(len(vectors), dead.shape, generator=generator, device=vectors.device)
    for tokenizer in tokenizers:
        tokenizer.codebook.weight[dead] = vectors[chosen]
    unused[dead] = 0

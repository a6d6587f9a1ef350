"""Keeps a codebook in use: an entry that no image is near gets no gradient and would never be used again.

Knows nothing of losses and of files.
"""

import torch
from torch import Tensor

from elm_dist.parallel.replicas import Replicas
from elm_dist.tokenizers.vqgan import VQGAN, Quantized


@torch.no_grad()
def revive_entries(
    tokenizers: list[VQGAN], unused: Tensor, quantized: Quantized, after: int, seed: int, replicas: Replicas
) -> None:
    """Count one update into `unused`, (codebook_size,), and draw entries unused for `after` of them anew; 0 = never.

    They become vectors of the batch, of which each of `replicas` holds a part, chosen by `seed`, and the same ones in
    each of `tokenizers`: the one that is trained and its average. Adam's moments are left alone, having faded without
    a gradient.
    """
    unused += 1
    unused[quantized.ids.flatten()] = 0
    unused.copy_(replicas.minimum(unused))
    if not after:
        return
    dead = (unused >= after).nonzero().squeeze(1)
    vectors = quantized.vectors.permute(0, 2, 3, 1).flatten(0, 2)
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(vectors) * replicas.count, dead.shape, generator=draw).to(vectors.device)
    owners, places = chosen // len(vectors), chosen % len(vectors)
    is_mine = (owners == replicas.rank).unsqueeze(1)
    entries = replicas.sum(torch.where(is_mine, vectors[places], 0.0))
    for tokenizer in tokenizers:
        tokenizer.codebook.weight[dead] = entries
    unused[dead] = 0

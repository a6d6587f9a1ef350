"""Entries that nothing uses are drawn anew from the batch, the same in both tokenizers, and only when it is time."""

from pathlib import Path

import pytest
import torch

from elm_dist.config import TokenizerConfig
from elm_dist.parallel.replicas import Replicas
from elm_dist.tokenizers.vqgan import VQGAN, Quantized
from elm_dist.training.tokenizer_codebook import revive_entries


@pytest.fixture
def pair() -> list[VQGAN]:
    config = TokenizerConfig(
        directory=Path("tokenizer"),
        kind="vqgan",
        code_bits=3,
        codebook_size=8,
        codebook_dim=2,
        image_size=4,
        base_channels=32,
        channel_multipliers=(1,),
        attention_resolutions=(),
        res_blocks=1,
        embedding_channels=32,
        codebook_normalized=False,
    )
    return [VQGAN(config), VQGAN(config)]


BATCH = Quantized(torch.arange(8.0).view(1, 2, 2, 2), torch.zeros(1, 2, 2, 2), torch.tensor([[[0, 1], [1, 2]]]))


def test_only_what_was_long_unused_is_replaced(pair: list[VQGAN]) -> None:
    before = [vqgan.codebook.weight.detach().clone() for vqgan in pair]
    unused = torch.tensor([5, 0, 9, 2, 1, 0, 2, 0])
    revive_entries(pair, unused, BATCH, after=3, seed=0, replicas=Replicas())
    assert unused.tolist() == [0, 0, 0, 0, 2, 1, 0, 1]
    kept, revived = [0, 1, 2, 4, 5, 7], [3, 6]
    vectors = BATCH.vectors[0].flatten(1).T.tolist()
    for vqgan, weight in zip(pair, before, strict=True):
        assert torch.equal(vqgan.codebook.weight[kept], weight[kept])
        assert all(row in vectors for row in vqgan.codebook.weight[revived].tolist())
    assert torch.equal(pair[0].codebook.weight[revived], pair[1].codebook.weight[revived])


def test_never(pair: list[VQGAN]) -> None:
    before = pair[0].codebook.weight.detach().clone()
    unused = torch.full((8,), 1000)
    revive_entries(pair, unused, BATCH, after=0, seed=0, replicas=Replicas())
    assert torch.equal(pair[0].codebook.weight, before)
    assert unused.tolist() == [0, 0, 0] + [1001] * 5

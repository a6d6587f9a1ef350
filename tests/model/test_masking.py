import math

import numpy as np
import pytest
import torch
from golden_models import load_golden_elm
from hypothesis import given
from hypothesis import strategies as st

from elm_dist.codes.packing import pack_bits, subtokens_to_bits
from elm_dist.codes.subtokens import CodeShape
from elm_dist.model.elm import DECODERS, code_shape
from elm_dist.model.loss import MaskedCodeLoss
from elm_dist.model.masking import append_mask, hidden_cells, split_mask


@given(
    shape=st.builds(CodeShape, st.integers(1, 30), st.integers(1, 3), st.integers(1, 9)), seed=st.integers(0, 2**32 - 1)
)
def test_a_mask_behind_the_codes_comes_back(shape: CodeShape, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    packed = torch.randint(0, 256, (3, shape.packed_bytes), generator=generator).to(torch.uint8)
    is_hidden = torch.rand((3, shape.positions), generator=generator) < 0.5
    found = split_mask(append_mask(packed, is_hidden), shape)
    assert torch.equal(found[0], packed)
    assert torch.equal(found[1], is_hidden)


def test_ratios_follow_the_cosine_of_a_uniform_number() -> None:
    shares = hidden_cells(0, 64, np.arange(4000), None).double().mean(dim=1).numpy()
    assert shares.min() >= 1 / 64
    assert shares.mean() == pytest.approx(2 / math.pi - 0.5 / 64, abs=0.01)  # rounded down: half a cell less
    for share in (0.25, 0.5, 0.75):  # P(cos(pi/2 u) < s) = 1 - 2/pi arccos(s)
        assert (shares < share).mean() == pytest.approx(1 - 2 / math.pi * math.acos(share), abs=0.03)


def test_every_cell_is_hidden_as_often_as_any_other() -> None:
    often = hidden_cells(1, 16, np.arange(8000), None).double().mean(dim=0)
    assert often.sub(often.mean()).abs().max() < 0.02


def test_a_sample_s_mask_is_its_own_whatever_it_is_asked_with() -> None:
    samples = np.array([5, 900, 17])
    together = hidden_cells(3, 64, samples, None)
    alone = torch.cat([hidden_cells(3, 64, samples[index : index + 1], None) for index in range(3)])
    assert torch.equal(together, alone)
    assert not torch.equal(together, hidden_cells(4, 64, samples, None))


def test_a_batch_can_share_its_ratio_and_not_its_cells() -> None:
    batches = np.repeat(np.arange(200), 4)
    masks = hidden_cells(0, 64, np.arange(800), batches)
    counts = masks.sum(dim=1).view(200, 4)
    assert (counts == counts[:, :1]).all()
    assert set(counts[:, 0].tolist()) == {math.floor(64 * math.cos(math.pi / 2 * step / 10)) for step in range(10)}
    rows = masks.view(200, 4, 64)[counts[:, 0] < 64]
    assert not torch.equal(rows[:, 0], rows[:, 1])


def test_logits_and_loss_equal_the_published_implementation() -> None:
    elm, model, golden, grid = load_golden_elm("mlm_1-6")
    shape = code_shape(model, grid)
    packed = pack_bits(subtokens_to_bits(golden["codes"], model.subtoken_bits).flatten(1))
    rows = append_mask(packed, golden["mask"].squeeze(2))
    logits = elm((rows, golden["classes"]))
    torch.testing.assert_close(logits, golden["logits"], rtol=0, atol=1e-5)
    hidden = golden["mask"].squeeze(2)
    expected = torch.nn.functional.cross_entropy(
        golden["logits"][hidden].flatten(0, 1), golden["codes"][hidden].flatten()
    )
    assert MaskedCodeLoss(shape)(logits, rows).item() == pytest.approx(expected.item(), abs=1e-6)
    ids = golden["codes"].masked_fill(golden["mask"], shape.vocabulary)
    drawn = DECODERS["masked"](elm, 2).step((ids, golden["classes"]), 0, 0, shape.positions)
    assert torch.equal(drawn, logits)

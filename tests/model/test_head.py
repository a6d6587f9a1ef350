"""Sub-tokens that are predicted one after the other: what each sees, and what that is good for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_dist.codes.packing import pack_bits, subtokens_to_bits
from elm_dist.config import Grid, ModelConfig
from elm_dist.model.elm import ELM, code_shape, initialize, layer_specs
from elm_dist.model.loss import CodeLoss

GRID = Grid(2, 3)
SIZES = {"num_layers": 2, "hidden_size": 32, "num_heads": 2, "num_classes": 4, "dropout": 0}


def pack(ids: torch.Tensor, bits: int) -> torch.Tensor:
    return pack_bits(subtokens_to_bits(ids, bits).flatten(1))


def build(model: ModelConfig, grid: Grid = GRID) -> ELM:
    elm = ELM(layer_specs(model, grid))
    initialize(elm.named_parameters(), seed=0)
    return elm


SEQUENTIAL = build(ModelConfig(**SIZES, subtokens=4, subtoken_bits=2, subtoken_prediction="sequential")).eval()
for output in SEQUENTIAL.head.outputs:
    torch.nn.init.normal_(output.weight, generator=torch.Generator().manual_seed(1))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), place=st.tuples(st.integers(0, 5), st.integers(0, 3)), change=st.integers(1, 3))
@torch.inference_mode()
def test_a_sub_token_sees_those_before_it_in_its_position_and_all_positions_before(
    seed: int, place: tuple[int, int], change: int
) -> None:
    position, subtoken = place
    ids = torch.randint(4, (1, GRID.cells, 4), generator=torch.Generator().manual_seed(seed))
    changed = ids.clone()
    changed[:, position, subtoken] ^= change
    before, after = (SEQUENTIAL((pack(each, 2), torch.tensor([1]))) for each in (ids, changed))
    is_changed = (before != after).any(dim=3).squeeze(0)
    expected = torch.zeros_like(is_changed)
    expected[position, subtoken + 1 :] = True
    expected[position + 1 :] = True
    assert torch.equal(is_changed, expected)


def train(prediction: str, steps: int = 300) -> list[float]:
    """Return the loss of each sub-token, in bits, of a small model whose 2-bit codes are (any, any XOR the class)."""
    model = ModelConfig(**SIZES | {"num_layers": 1}, subtokens=2, subtoken_bits=2, subtoken_prediction=prediction)
    elm, shape = build(model).eval(), code_shape(model, GRID)
    optimizer = torch.optim.Adam(elm.parameters(), 1e-2)
    loss, generator = CodeLoss(shape), torch.Generator().manual_seed(0)
    for step in range(steps):
        if step == steps - 20:
            loss.reset()
        labels = torch.randint(4, (32,), generator=generator)
        first = torch.randint(4, (32, GRID.cells), generator=generator)
        rows = pack(torch.stack([first, first ^ labels[:, None]], dim=2), 2)
        optimizer.zero_grad()
        loss(elm((rows, labels)), rows).backward()
        optimizer.step()
    *sums, count = loss.sums.tolist()
    return [total / count / math.log(2) for total in sums[:2]]


def test_what_sub_tokens_know_of_each_other_is_learned_in_sequence_alone() -> None:
    assert train("sequential") == [pytest.approx(2, abs=0.1), pytest.approx(0, abs=0.1)]
    assert train("parallel") == [pytest.approx(2, abs=0.1)] * 2

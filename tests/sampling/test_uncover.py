"""MaskGIT's drawing: what is hidden when, what guidance and noise do, and what an image depends on."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from golden_models import load_golden_elm
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import SamplingConfig
from elm_dist.model.elm import DECODERS, DecoderStep, code_shape
from elm_dist.sampling.generate import Known
from elm_dist.sampling.uncover import hidden_counts, uncover

ELM, MODEL, GOLDEN, GRID = load_golden_elm("mlm_1-6")
SHAPE = code_shape(MODEL, GRID)


class Watched:
    """The golden model's decoder, which notes the codes and the rows of each pass."""

    def __init__(self) -> None:
        self.passes: list[tuple[Tensor, int]] = []

    def build(self, batch: int) -> DecoderStep:
        step = DECODERS["masked"](ELM, batch).step

        def watched(x: tuple[Tensor, Tensor], position: int, row: int = 0, outputs: int = 1) -> Tensor:
            self.passes.append((x[0].clone(), len(x[1])))
            return step(x, position, row, outputs)

        return watched

    def hidden(self) -> list[int]:
        """Return how many cells of the first image were hidden in each pass."""
        return [int((codes[0] == SHAPE.vocabulary).all(dim=1).sum()) for codes, _ in self.passes]


def draw(
    watched: Watched | None = None, known: Known | None = None, seeds: tuple[int, ...] = (1, 2), **sampling
) -> Tensor:
    labels = torch.arange(len(seeds))
    config = SamplingConfig(**{"cfg_scale": 2.0, "iterations": 4} | sampling)
    return uncover((watched or Watched()).build, SHAPE, labels, seeds, MODEL.num_classes, config, known=known)


@given(cells=st.integers(1, 300), iterations=st.integers(1, 400))
def test_each_pass_uncovers_some_and_the_last_all(cells: int, iterations: int) -> None:
    counts = hidden_counts(cells, iterations)
    assert counts[-1] == 0
    assert len(counts) <= iterations
    assert all(before > after for before, after in pairwise([cells, *counts]))


def test_a_256_cell_image_follows_the_cosine() -> None:
    expected = [math.floor(256 * math.cos(math.pi / 2 * number / 10)) for number in range(1, 10)]
    assert hidden_counts(256, 10) == [*expected, 0]


def test_passes_see_as_many_hidden_cells_as_planned() -> None:
    watched = Watched()
    codes = draw(watched)
    assert watched.hidden() == [16, *hidden_counts(16, 4)[:-1]]
    assert codes.shape == (2, 16, 1)
    assert codes.min() >= 0
    assert codes.max() < SHAPE.vocabulary


def test_an_uncovered_code_stays_unless_it_may_be_hidden_again() -> None:
    for remask in (False, True):
        watched = Watched()
        draw(watched, remask=remask, iterations=8, mask_temperature=30)
        seen = [codes[0, :, 0] for codes, _ in watched.passes]
        lost = [bool(((before != SHAPE.vocabulary) & (after != before)).any()) for before, after in pairwise(seen)]
        assert any(lost) is remask
        assert watched.hidden() == [16, *hidden_counts(16, 8)[:-1]]


def test_an_image_depends_on_its_own_seed_alone() -> None:
    together, alone = draw(seeds=(7, 8)), draw(seeds=(7,))
    assert torch.equal(together[:1], alone)
    assert not torch.equal(draw(seeds=(9,)), alone)


@pytest.mark.parametrize("remask", [False, True])
def test_known_codes_stay_and_are_seen(remask: bool) -> None:
    positions = np.arange(16) % 3 == 0
    given_codes = torch.randint(64, (2, 16, 1), generator=torch.Generator().manual_seed(0))
    watched = Watched()
    codes = draw(watched, Known(given_codes, positions), remask=remask)
    assert torch.equal(codes[:, positions], given_codes[:, positions])
    assert all(torch.equal(seen[:2, positions], given_codes[:, positions]) for seen, _ in watched.passes)
    assert watched.hidden()[0] == 10
    everything = draw(known=Known(given_codes, np.ones(16, dtype=np.bool_)))
    assert torch.equal(everything, given_codes)


def test_the_null_class_is_computed_only_while_guidance_is_on() -> None:
    watched = Watched()
    draw(watched, cfg_interval=(0.5, 1.0))
    assert [rows for _, rows in watched.passes] == [2, 2, 4, 4]
    watched = Watched()
    draw(watched, cfg_scale=1.0)
    assert [rows for _, rows in watched.passes] == [2, 2, 2, 2]


def test_one_greedy_pass_takes_the_guided_argmax() -> None:
    codes = draw(iterations=1, top_k=1)
    hidden = torch.full((2, 16, 1), SHAPE.vocabulary)
    step = DECODERS["masked"](ELM, 2).step
    own, free = (step((hidden, labels), 0, 0, 16) for labels in (torch.arange(2), torch.full((2,), MODEL.num_classes)))
    assert torch.equal(codes, (free + 2 * (own - free)).argmax(dim=3))


def test_without_noise_the_surest_are_uncovered_first() -> None:
    watched = Watched()
    draw(watched, seeds=(3,), mask_temperature=0, cfg_scale=1.0, top_k=1)
    first, second = (codes[0, :, 0] for codes, _ in watched.passes[:2])
    logits = DECODERS["masked"](ELM, 1).step((first.view(1, 16, 1), torch.tensor([0])), 0, 0, 16)
    sureness = logits.log_softmax(dim=3).amax(dim=3)[0, :, 0]
    kept = second != SHAPE.vocabulary
    assert sureness[kept].min() >= sureness[~kept].max()


def test_several_sub_tokens_are_hidden_and_drawn_together() -> None:
    shape, seen = CodeShape(positions=6, subtokens=2, subtoken_bits=3), []

    def build(batch: int) -> DecoderStep:
        def step(x: tuple[Tensor, Tensor], position: int, row: int = 0, outputs: int = 1) -> Tensor:
            seen.append(x[0].clone())
            return torch.zeros(len(x[1]), 6, 2, 8)

        return step

    codes = uncover(build, shape, torch.tensor([0]), [5], 3, SamplingConfig(cfg_scale=1.0, iterations=3))
    assert codes.max() < 8
    assert all(((ids == 8).all(dim=2) == (ids == 8).any(dim=2)).all() for ids in seen)


def test_equal_logits_draw_every_code_alike() -> None:
    """Chi-square over 64 entries of what a model that knows nothing draws: below the 99.9 % point of 63 degrees."""

    def build(batch: int) -> DecoderStep:
        return lambda x, position, row=0, outputs=1: torch.zeros(len(x[1]), 16, 1, 64)

    sampling = SamplingConfig(cfg_scale=1.0, iterations=4)
    codes = uncover(build, SHAPE, torch.zeros(800, dtype=torch.int64), range(800), MODEL.num_classes, sampling)
    counts = codes.flatten().bincount(minlength=64).double()
    expected = codes.numel() / 64
    assert ((counts - expected) ** 2 / expected).sum() < 103

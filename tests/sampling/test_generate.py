import numpy as np
import pytest
import torch
from golden_models import load_golden_elm

from elm_dist.codes.packing import pack_bits, subtokens_to_bits
from elm_dist.config import SamplingConfig
from elm_dist.model.elm import ELM, Decoder, code_shape
from elm_dist.sampling.generate import generate, pick
from elm_dist.sampling.guidance import SCHEDULES, guidance_scales

NAMES = ["ar_1-6", "ar_2-5"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_greedy_samples_equal_the_published_implementation(name: str, schedule: str) -> None:
    elm, model, golden, grid = load_golden_elm(name)
    scale = 2.0 if schedule == "constant" else 4.0
    sampling = SamplingConfig(cfg_scale=scale, cfg_schedule=schedule, top_k=1)
    shape = code_shape(model, grid)
    codes = generate(
        lambda batch: Decoder(elm, batch).step, shape, golden["classes"], [0, 1], model.num_classes, sampling
    )
    assert torch.equal(codes, golden[f"greedy_{schedule}"])


class FullRecomputation:
    """The uncached way to sample, as an oracle: forwards the whole sequence again for every position."""

    def __init__(self, elm: ELM, batch: int) -> None:
        self.elm = elm
        self.shape = elm.embedding.code_shape
        self.codes = torch.zeros((batch, self.shape.positions, self.shape.subtokens), dtype=torch.int64)

    def step(self, x: torch.Tensor, position: int) -> torch.Tensor:
        if position == 0:
            self.labels = x
        else:
            self.codes[:, position - 1] = x[:, 0]
        packed = pack_bits(subtokens_to_bits(self.codes, self.shape.subtoken_bits).flatten(1))
        return self.elm((packed, self.labels))[:, position : position + 1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_cached_and_uncached_sampling_draw_the_same(name: str, scale: float) -> None:
    elm, model, golden, grid = load_golden_elm(name)
    draws = [
        generate(
            lambda batch, kind=kind: kind(elm, batch).step,
            code_shape(model, grid),
            golden["classes"],
            [11, 12],
            model.num_classes,
            SamplingConfig(cfg_scale=scale, temperature=0.9, top_k=20),
        )
        for kind in (Decoder, FullRecomputation)
    ]
    assert torch.equal(*draws)


def test_an_image_does_not_depend_on_its_batch() -> None:
    elm, model, _, grid = load_golden_elm("ar_2-5")

    def draw(labels: list[int], seeds: list[int]) -> torch.Tensor:
        return generate(
            lambda batch: Decoder(elm, batch).step,
            code_shape(model, grid),
            torch.tensor(labels),
            seeds,
            model.num_classes,
            SamplingConfig(),
        )

    together = draw([1, 2, 3, 1], [5, 6, 7, 8])
    assert torch.equal(together[1:2], draw([2], [6]))
    assert torch.equal(together[[3, 0]], draw([1, 1], [8, 5]))
    assert not torch.equal(together[0], together[3])  # the same class, another seed


def test_pick_follows_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    draws = torch.from_numpy(np.random.default_rng(0).random(200_000))
    ids = pick(logits.expand(len(draws), 4), draws, SamplingConfig(temperature=0.5))
    expected = (logits / 0.5).softmax(dim=0)
    found = torch.bincount(ids, minlength=4) / len(ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.005)


def test_top_k_leaves_the_k_likeliest() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    draws = torch.linspace(0, 1 - 1e-9, 2000, dtype=torch.float64)
    ids = pick(logits.expand(2000, 50), draws, SamplingConfig(top_k=7))
    assert set(ids.tolist()) == set(logits[0].topk(7).indices.tolist())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_guidance_ends_at_the_scale(schedule: str) -> None:
    scales = guidance_scales(schedule, 4.0, 256)
    assert len(scales) == 256
    assert scales == sorted(scales)
    assert scales[-1] == pytest.approx(4.0, abs=0.01)


def test_linear_guidance_grows_in_equal_steps() -> None:
    assert guidance_scales("linear", 5.0, 4) == [2.0, 3.0, 4.0, 5.0]

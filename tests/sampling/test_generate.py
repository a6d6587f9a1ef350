import numpy as np
import pytest
import torch
from golden_models import load_golden_elm
from torch.utils._python_dispatch import TorchDispatchMode

from elm_dist.codes.packing import pack_bits, subtokens_to_bits
from elm_dist.config import SamplingConfig
from elm_dist.model.elm import ELM, Decoder, DecoderStep, code_shape
from elm_dist.sampling.generate import generate, pick
from elm_dist.sampling.guidance import SCHEDULES, guidance_scales

NAMES = ["ar_1-6", "ar_2-5"]
ALL = {0, 1, 2, 3}


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

        self.labels = torch.zeros(batch, dtype=torch.int64)
        self.passes: list[tuple[int, int, int]] = []  # (first row, rows, positions)

    def step(self, x: torch.Tensor, position: int, row: int = 0, outputs: int = 1) -> torch.Tensor:
        rows, length = slice(row, row + len(x)), x.shape[1] if position else 1
        self.passes.append((row, len(x), length))
        if position == 0:
            self.labels[rows] = x
        else:
            self.codes[rows, position - 1 : position - 1 + length] = x
        packed = pack_bits(subtokens_to_bits(self.codes[rows], self.shape.subtoken_bits).flatten(1))
        end = position + length
        return self.elm((packed, self.labels[rows]))[:, end - outputs : end]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("scale", "interval"), [(1.0, (0, 1)), (3.0, (0, 1)), (3.0, (0.3, 0.8)), (3.0, (0.05, 1))])
def test_cached_and_uncached_sampling_draw_the_same(name: str, scale: float, interval: tuple[float, float]) -> None:
    elm, model, golden, grid = load_golden_elm(name)
    draws = [
        generate(
            lambda batch, kind=kind: kind(elm, batch).step,
            code_shape(model, grid),
            golden["classes"],
            [11, 12],
            model.num_classes,
            SamplingConfig(cfg_scale=scale, cfg_interval=interval, temperature=0.9, top_k=20, top_p=0.95),
        )
        for kind in (Decoder, FullRecomputation)
    ]
    assert torch.equal(*draws)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.0, 0.5), (0.25, 0.75), (0.1, 1.0)])
def test_outside_its_interval_guidance_is_off_and_costs_nothing(interval: tuple[float, float]) -> None:
    elm, model, golden, grid = load_golden_elm("ar_2-5")
    shape, labels = code_shape(model, grid), golden["classes"]
    sampling = SamplingConfig(cfg_scale=4.0, cfg_interval=interval, top_k=1)
    decoders: list[FullRecomputation] = []

    def build(batch: int) -> DecoderStep:
        decoders.append(FullRecomputation(elm, batch))
        return decoders[0].step

    codes = generate(build, shape, labels, [0, 1], model.num_classes, sampling)
    assert torch.equal(codes, likeliest_codes_with_both_halves(elm, labels, model.num_classes, sampling))
    first, end = (round(share * shape.positions) for share in interval)
    alone, both = (0, 2, 1), (0, 4, 1)
    caught_up = [(2, 2, 1), (2, 2, first - 1)] if first else []
    expected = [alone] * first + caught_up + [both] * (end - first) + [alone] * (shape.positions - end)
    assert decoders[0].passes == expected


def likeliest_codes_with_both_halves(
    elm: ELM, labels: torch.Tensor, null_class: int, sampling: SamplingConfig
) -> torch.Tensor:
    """Compute all of both halves at every position, the plainest way that there is."""
    shape = elm.embedding.code_shape
    first, end = (round(share * shape.positions) for share in sampling.cfg_interval)
    codes = torch.zeros((len(labels), shape.positions, shape.subtokens), dtype=torch.int64)
    for position in range(shape.positions):
        packed = pack_bits(subtokens_to_bits(codes, shape.subtoken_bits).flatten(1))
        conditional, null = (elm((packed, which)) for which in (labels, torch.full_like(labels, null_class)))
        scale = 1 + (sampling.cfg_scale - 1) * (position + 1) / shape.positions
        guided = null + (conditional - null) * scale if first <= position < end else conditional
        codes[:, position] = guided[:, position].argmax(dim=2)
    return codes


class NoWaiting(TorchDispatchMode):
    """Refuses what makes a program wait for its device: reading a value, and sizes that depend on values."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
        name = function.overloadpacket.__name__
        assert name not in ("item", "is_nonzero", "nonzero", "masked_select", "_unique2"), f"{name} waits"
        return function(*arguments, **(options or {}))


def test_nothing_in_the_loop_waits_for_the_device() -> None:
    elm, model, golden, grid = load_golden_elm("ar_2-5")
    sampling = SamplingConfig(cfg_scale=4.0, cfg_interval=(0.3, 0.8), top_k=20, top_p=0.9)
    shape, labels = code_shape(model, grid), golden["classes"]
    with pytest.raises(AssertionError, match="is_nonzero waits"), NoWaiting(), torch.inference_mode():
        assert labels[0] >= 0
    with NoWaiting():
        generate(lambda batch: Decoder(elm, batch).step, shape, labels, [0, 1], model.num_classes, sampling)


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


def draw_many(logits: torch.Tensor, sampling: SamplingConfig, times: int = 200_000) -> torch.Tensor:
    """Return how often each entry of `logits` (vocabulary,) is drawn, as shares."""
    vocabulary = len(logits)
    draws = torch.from_numpy(np.random.default_rng(0).random((times, vocabulary.bit_length() - 1)))
    return torch.bincount(pick(logits.expand(times, vocabulary), draws, sampling), minlength=vocabulary) / times


def test_pick_follows_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -torch.inf, 1.5, -3.0])
    expected = (logits / 0.5).softmax(dim=0)
    found = draw_many(logits, SamplingConfig(temperature=0.5))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.005)
    assert found[5] == 0


def test_rounding_hardly_ever_changes_what_is_drawn() -> None:
    """Noise of the size of bf16's among 65,536 entries; inverting a cumulative sum draws 6 of 10 differently."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(500, 2**16, generator=generator)
    draws = torch.rand(500, 16, dtype=torch.float64, generator=generator)
    noisy = logits * (1 + 2**-9 * torch.randn(logits.shape, generator=generator))
    different = pick(logits, draws, SamplingConfig()) != pick(noisy, draws, SamplingConfig())
    assert different.float().mean() < 0.03


def test_top_k_leaves_the_k_likeliest() -> None:
    logits = torch.randn(64, generator=torch.Generator().manual_seed(0))
    found = draw_many(logits, SamplingConfig(top_k=7), times=2000)
    assert set(found.nonzero().flatten().tolist()) == set(logits.topk(7).indices.tolist())


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.05, {1}), (0.49, {1}), (0.51, {1, 3}), (0.74, {1, 3}), (0.76, ALL), (1, ALL)]
)
def test_top_p_leaves_the_fewest_that_reach_it(top_p: float, kept: set[int]) -> None:
    probabilities = torch.tensor([0.125, 0.5, 0.125, 0.25])  # of two that are alike, none can be left out alone
    found = draw_many(probabilities.log(), SamplingConfig(top_p=top_p))
    assert set(found.nonzero().flatten().tolist()) == kept
    expected = probabilities * torch.isin(torch.arange(4), torch.tensor(list(kept)))
    torch.testing.assert_close(found, expected / expected.sum(), rtol=0, atol=0.005)


def test_top_p_is_of_what_top_k_leaves() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    found = draw_many(logits, SamplingConfig(top_k=2, top_p=0.57), times=2000)
    assert found.tolist() == [1, 0, 0, 0]  # 0.4 of 0.7 is 0.571


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_guidance_ends_at_the_scale(schedule: str) -> None:
    scales = guidance_scales(schedule, 4.0, 256)
    assert len(scales) == 256
    assert scales == sorted(scales)
    assert scales[-1] == pytest.approx(4.0, abs=0.01)


def test_linear_guidance_grows_in_equal_steps() -> None:
    assert guidance_scales("linear", 5.0, 4) == [2.0, 3.0, 4.0, 5.0]

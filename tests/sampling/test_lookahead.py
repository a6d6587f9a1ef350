"""Several positions at once draw what one at a time does, token for token, in fewer passes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from golden_models import load_golden_elm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from elm_dist.codes.packing import pack_bits, subtokens_to_bits, unpack_subtokens
from elm_dist.config import Grid, ModelConfig, SamplingConfig
from elm_dist.model.elm import ELM, Decoder, DecoderStep, Drawn, code_shape, layer_specs
from elm_dist.model.head import SequentialHead
from elm_dist.sampling import generate as sampler
from elm_dist.sampling.generate import Known, generate
from elm_dist.sampling.guidance import SCHEDULES, guidance_scales

GOLDEN = {name: load_golden_elm(name) for name in ("ar_1-6", "ar_2-5")}
# Two ways to write codes of 2 bits: 256 images of 2 x 2 codes.
WHOLE: dict[str, Any] = {"subtokens": 1, "subtoken_bits": 2}
IN_SEQUENCE: dict[str, Any] = {"subtokens": 2, "subtoken_bits": 1, "subtoken_prediction": "sequential"}


class Counted(Decoder):
    """Notes its passes: (first position, positions fed, rows, outputs)."""

    def __init__(self, elm: ELM, batch: int) -> None:
        super().__init__(elm, batch)
        self.passes: list[tuple[int, int, int, int]] = []

    def step(self, x: Tensor | Drawn, position: int, row: int = 0, outputs: int = 1) -> Tensor:
        if isinstance(x, Drawn):
            return super().step(x, position, row, outputs)
        self.passes.append((position, x.shape[1] if position else 1, len(x), outputs))
        return super().step(x, position, row, outputs)


class Drawing:
    """One call of `generate`, and what it asked of its decoder and told of its progress."""

    def __init__(
        self,
        elm: ELM,
        sampling: SamplingConfig,
        labels: Tensor,
        seeds: Sequence[int],
        known: Known | None = None,
    ) -> None:
        embedding = elm.embedding
        self.done: list[int] = []
        self.codes = generate(
            lambda batch: self._build(elm, batch),
            embedding.code_shape,
            labels,
            seeds,
            embedding.classes.num_embeddings - 1,
            sampling,
            known=known,
            on_progress=lambda codes, is_done: self.done.append(int(is_done.sum())),
        )
        self.passes = self.decoder.passes

    def _build(self, elm: ELM, batch: int) -> DecoderStep:
        self.decoder = Counted(elm, batch)
        return self.decoder.step


def build_elm(grid: Grid, form: dict[str, Any] = WHOLE) -> ELM:
    """Return a model of one block whose codes depend much on those before them."""
    model = ModelConfig(num_layers=1, hidden_size=16, num_heads=1, num_classes=2, **form)
    elm = ELM(layer_specs(model, grid)).eval().requires_grad_(False)
    for name, parameter in elm.named_parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
            parameter.mul_(1.0 if "embedding" in name else 0.2)
    return elm


THREE_IN_SEQUENCE = build_elm(Grid(3, 4), {"subtokens": 3, "subtoken_bits": 3, "subtoken_prediction": "sequential"})


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_codes_are_those_of_one_position_a_pass(data: st.DataObject) -> None:
    elm = data.draw(st.sampled_from([*(golden[0] for golden in GOLDEN.values()), THREE_IN_SEQUENCE]))
    shape, classes = elm.embedding.code_shape, elm.embedding.classes.num_embeddings - 1
    interval = sorted(data.draw(st.lists(st.integers(0, 10), min_size=2, max_size=2, unique=True)))
    sampling = SamplingConfig(
        cfg_scale=data.draw(st.sampled_from([1.0, 1.5, 4.0])),
        cfg_schedule=data.draw(st.sampled_from(sorted(SCHEDULES))),
        cfg_interval=(interval[0] / 10, interval[1] / 10),
        temperature=data.draw(st.sampled_from([0.3, 1.0])),
        top_k=data.draw(st.sampled_from([0, 1, 5])),
        top_p=data.draw(st.sampled_from([0.8, 1.0])),
    )
    seeds = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3))
    labels = torch.arange(len(seeds)) % classes
    known = None
    if data.draw(st.booleans()):
        positions = data.draw(st.lists(st.booleans(), min_size=shape.positions, max_size=shape.positions))
        size = (len(seeds), shape.positions, shape.subtokens)
        given_codes = torch.randint(shape.vocabulary, size, generator=torch.Generator().manual_seed(seeds[0]))
        given_codes[:, [not is_given for is_given in positions]] = 2**40  # no code at all: nobody may look at it
        known = Known(given_codes, np.array(positions))
    one = Drawing(elm, sampling, labels, seeds, known)
    assert known is None or torch.equal(one.codes[:, known.positions], known.codes[:, known.positions])
    window = data.draw(st.sampled_from([2, 3, 4, 7, shape.positions, 1000]))
    several = Drawing(elm, sampling.model_copy(update={"lookahead": window}), labels, seeds, known)
    assert torch.equal(several.codes, one.codes)
    assert len(several.passes) <= len(one.passes) + 2  # of which the two that catch up
    assert several.done == sorted(set(several.done))
    assert several.done[-1:] == one.done[-1:]


@pytest.mark.parametrize("window", [1, 2, 3, 4, 16, 1000])
def test_a_pass_advances_by_as_many_positions_as_it_guessed_right(window: int) -> None:
    """All inputs are alike, and so all codes: after the class alone, each pass gets a whole window further."""
    elm = build_elm(grid=Grid(4, 4))
    for table in (elm.embedding.classes, *elm.embedding.codes):
        torch.nn.init.ones_(table.weight)
    sampling = SamplingConfig(cfg_scale=1, top_k=1, lookahead=window)
    drawing = Drawing(elm, sampling, torch.tensor([0, 1]), [0, 0])
    starts = [0, *range(1, 16, window)]
    assert [position for position, *_ in drawing.passes] == starts
    assert drawing.done == [*starts[1:], 16]
    assert [outputs for *_, outputs in drawing.passes] == [1, *(min(window, 16 - start) for start in starts[1:])]


@pytest.mark.parametrize("interval", [(0.0, 0.5), (0.25, 0.75)])
def test_the_null_half_is_computed_where_any_position_of_a_pass_is_guided(interval: tuple[float, float]) -> None:
    elm, model, golden, grid = GOLDEN["ar_2-5"]
    shape = code_shape(model, grid)
    sampling = SamplingConfig(cfg_scale=4.0, cfg_interval=interval, lookahead=3)
    drawing = Drawing(elm, sampling, golden["classes"], [0, 1])
    scales = guidance_scales("linear", 4.0, shape.positions, interval)
    ends = {position + length: (rows, outputs) for position, length, rows, outputs in drawing.passes}
    for end, (rows, outputs) in ends.items():
        assert rows == (4 if any(scale != 1 for scale in scales[end - outputs : end]) else 2)
    assert {rows for rows, _ in ends.values()} == {2, 4}


GUIDED = SamplingConfig(cfg_scale=2.0, temperature=0.8, lookahead=3)


def exact_distribution(elm: ELM, label: int) -> Tensor:
    """Return the probability (256,) of every image of 2 x 2 codes of 2 bits, by its byte, drawn as `GUIDED` says."""
    packed = torch.arange(256, dtype=torch.uint8).unsqueeze(1)
    images = unpack_subtokens(packed, elm.embedding.code_shape)
    guided, free = (elm((packed, torch.full((256,), which))).double() for which in (label, 2))
    scales = torch.tensor(guidance_scales(GUIDED.cfg_schedule, GUIDED.cfg_scale, 4)).view(4, 1, 1)
    logs = ((free + (guided - free) * scales) / GUIDED.temperature).log_softmax(dim=3)
    return logs.gather(3, images.unsqueeze(3)).sum(dim=(1, 2, 3)).exp()


def chi_square(elm: ELM, calls: int, images: int = 2) -> tuple[float, int]:
    """Return the statistic of images drawn a few at a time, and its degrees of freedom; rare images are one cell."""
    found, passes, bits = torch.zeros(256), 0, elm.embedding.code_shape.subtoken_bits
    for call in range(calls):
        seeds = range(images * call, images * (call + 1))
        drawing = Drawing(elm, GUIDED, torch.ones(images, dtype=torch.int64), seeds)
        found += torch.bincount(pack_bits(subtokens_to_bits(drawing.codes, bits).flatten(1)).flatten(), minlength=256)
        passes += len(drawing.passes)
    assert passes < 3.75 * calls  # of 4: there was something to accept
    expected = images * calls * exact_distribution(elm, 1)
    is_rare = expected < 8
    cells = [(tensor[~is_rare].double(), tensor[is_rare].double().sum().unsqueeze(0)) for tensor in (found, expected)]
    observed, theory = (torch.cat(parts) for parts in cells)
    return float(((observed - theory) ** 2 / theory).sum()), len(theory) - 1


def far(degrees: int) -> float:
    """Return five standard deviations above the mean of a chi-square: not one in 100,000 exceeds it."""
    return degrees + 5 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("form", [WHOLE, IN_SEQUENCE], ids=["whole", "in_sequence"])
def test_images_follow_the_exact_distribution(form: dict[str, Any]) -> None:
    """It is the product over codes, and in sequence over their sub-tokens, of what each is given all before it."""
    statistic, degrees = chi_square(build_elm(Grid(2, 2), form), calls=1500)
    assert degrees > 40
    assert statistic < far(degrees)


def accept_all(picks: Tensor, guesses: Tensor) -> int:
    return picks.shape[1]


def accept_one_too_many(picks: Tensor, guesses: Tensor, count: Callable[..., int] = sampler._count_right) -> int:
    return min(count(picks, guesses) + 1, picks.shape[1])


@pytest.mark.parametrize("rule", [accept_all, accept_one_too_many])
def test_images_that_are_accepted_wrongly_do_not(monkeypatch: pytest.MonkeyPatch, rule: Callable[..., int]) -> None:
    monkeypatch.setattr(sampler, "_count_right", rule)
    statistic, degrees = chi_square(build_elm(grid=Grid(2, 2)), calls=500)
    assert statistic > far(degrees)


def test_images_whose_sub_tokens_are_drawn_apart_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    elm = build_elm(Grid(2, 2), IN_SEQUENCE)

    def next_logits(told: Tensor, drawn: Sequence[Tensor] = ()) -> Tensor:
        return SequentialHead.next_logits(elm.head, told, [torch.zeros_like(ids) for ids in drawn])

    monkeypatch.setattr(elm.head, "next_logits", next_logits)
    statistic, degrees = chi_square(elm, calls=500)
    assert statistic > far(degrees)

from collections.abc import Callable

import pytest
import torch
from golden_models import load_golden_elm
from torch._dynamo.utils import counters

from elm_dist.config import SamplingConfig
from elm_dist.model.decoder import FoldedDecoder, static_step
from elm_dist.model.elm import ELM, Decoder, DecoderStep
from elm_dist.model.folded import FoldedELM
from elm_dist.model.int8 import quantize_blocks
from elm_dist.sampling.generate import generate

NAMES = ["ar_1-6", "ar_2-5"]
ROWS = 3


def random_codes(elm: ELM) -> torch.Tensor:
    shape = elm.embedding.code_shape
    size = (ROWS, shape.positions, shape.subtokens)
    return torch.randint(0, shape.vocabulary, size, generator=torch.Generator().manual_seed(0))


def feed(step: DecoderStep, codes: torch.Tensor) -> torch.Tensor:
    """Return the logits at all positions, in some of the ways in which sampling asks for them."""
    logits = [step(torch.arange(ROWS), 0)]
    logits += [step(codes[:, p - 1 : p], p) for p in range(1, 5)]
    logits += [step(codes[:, 7:8], 5), step(codes[:, 4:5], 5)]  # the second replaces what the first left
    logits += [torch.cat([step(codes[r : r + 1, 5:9], 6, row=r, outputs=3) for r in range(ROWS)])]
    logits += [step(codes[:, p - 1 : p], p) for p in range(10, codes.shape[1])]
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_folded_model_gives_the_logits_of_the_model(name: str) -> None:
    elm, *_ = load_golden_elm(name)
    codes = random_codes(elm)
    expected = feed(Decoder(elm, ROWS).step, codes)
    found = feed(FoldedDecoder(FoldedELM(elm), ROWS).step, codes)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


def test_weights_of_8_bits_fold_too() -> None:
    elm, *_ = load_golden_elm("ar_2-5")
    quantize_blocks(elm)
    codes = random_codes(elm)
    expected = feed(Decoder(elm, ROWS).step, codes)
    found = feed(FoldedDecoder(FoldedELM(elm), ROWS).step, codes)
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("int8", [True, False])
def test_bf16_is_as_near_to_fp32_as_it_was(int8: bool) -> None:
    elm, *_ = load_golden_elm("ar_2-5")
    if int8:
        quantize_blocks(elm)
    codes = random_codes(elm)
    exact = feed(Decoder(elm, ROWS).step, codes)
    elm.to(torch.bfloat16)
    unfolded = feed(Decoder(elm, ROWS).step, codes)
    folded = feed(FoldedDecoder(FoldedELM(elm), ROWS).step, codes)
    assert folded.dtype == torch.bfloat16
    assert (folded.float() - exact).norm() < 1.1 * (unfolded.float() - exact).norm() < 0.02 * exact.norm()


def test_mixtures_of_classes_fold_too() -> None:
    elm, model, *_ = load_golden_elm("ar_2-5")
    weights = torch.rand(ROWS, model.num_classes + 1, generator=torch.Generator().manual_seed(0))
    found = FoldedDecoder(FoldedELM(elm), ROWS).step(weights, 0)
    torch.testing.assert_close(found, Decoder(elm, ROWS).step(weights, 0), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_static_step_gives_what_a_step_gives() -> None:
    elm, *_ = load_golden_elm("ar_2-5")
    codes, model = random_codes(elm), FoldedELM(elm)
    decoder, static = FoldedDecoder(model, ROWS), FoldedDecoder(model, ROWS)
    decoder.step(torch.arange(ROWS), 0)
    static.step(torch.arange(ROWS), 0)
    for position in range(1, codes.shape[1]):
        ids = codes[:, position - 1 : position]
        found = static_step(model, static.caches, ids, torch.tensor([position]))
        expected = decoder.step(ids, position)
        assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


GREEDY = SamplingConfig(cfg_scale=4.0, top_k=1)


def draw(elm: ELM, labels: torch.Tensor, build: Callable[[int], DecoderStep], sampling: SamplingConfig) -> torch.Tensor:
    return generate(build, elm.embedding.code_shape, labels, [0, 1], elm.embedding.classes.num_embeddings - 1, sampling)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_codes_equal_the_published_implementation(name: str) -> None:
    elm, _, golden, _ = load_golden_elm(name)
    folded = FoldedELM(elm)
    codes = draw(elm, golden["classes"], lambda batch: FoldedDecoder(folded, batch).step, GREEDY)
    assert torch.equal(codes, golden["greedy_linear"])


def test_compiled_steps_draw_the_same_codes() -> None:
    torch._dynamo.reset()
    counters.clear()
    elm, _, golden, _ = load_golden_elm("ar_2-5")
    folded = FoldedELM(elm, compiled=True)
    codes = draw(elm, golden["classes"], lambda batch: FoldedDecoder(folded, batch).step, GREEDY)
    assert torch.equal(codes, golden["greedy_linear"])
    assert counters["stats"]["unique_graphs"] == 1  # whatever the block and the position
    assert not counters["graph_break"]


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.5, 1.0)])  # one size of batch, and two
def test_replayed_steps_draw_the_same_codes(interval: tuple[float, float], compiled: bool) -> None:
    elm, _, golden, _ = load_golden_elm("ar_2-5")
    labels, sampling = golden["classes"].cuda(), GREEDY.model_copy(update={"cfg_interval": interval})
    folded = FoldedELM(elm.cuda(), compiled)
    codes = draw(elm, labels, lambda batch: FoldedDecoder(folded, batch, cuda_graphs=True).step, sampling)
    assert torch.equal(codes, draw(elm, labels, lambda batch: Decoder(elm, batch).step, sampling))

"""The variants of the model, alone and together: each computes what it says, counts right, and decodes as it trains."""

import math

import pytest
import torch
import torch.nn.functional as F
from model_variants import GRID, VARIANTS, build, describe, random_batch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from elm_dist.codes.packing import unpack_subtokens
from elm_dist.model.adaln import AdaLN
from elm_dist.model.attention import ATTENTION, Attention
from elm_dist.model.cost import layer_forward_flops, layer_parameters
from elm_dist.model.elm import DECODERS, ELM, Decoder, Drawn, code_shape, initialize, layer_specs, stream_length
from elm_dist.model.layers import DropPath, micro_batch_seed
from elm_dist.model.loss import build_loss
from elm_dist.model.masking import row_bytes
from elm_dist.model.similarity import SHARPEST, Cosine, NormedDotProduct

every_variant = pytest.mark.parametrize("name", VARIANTS)


@every_variant
def test_parameters_and_operations_are_counted_right(name: str) -> None:
    model = describe(name, dropout=0)
    with torch.device("meta"):
        elm = ELM(layer_specs(model, GRID))
        assert [sum(p.numel() for p in layer.parameters()) for layer in elm] == layer_parameters(model, GRID)
        batch = torch.zeros((1, row_bytes(model, code_shape(model, GRID))), dtype=torch.uint8)
        if model.modelling == "masked":  # meta tensors have no mask to look at
            ids = torch.zeros((1, GRID.cells, model.subtokens), dtype=torch.int64)
            run = lambda: DECODERS["masked"](elm, 1).step((ids, torch.zeros(1, dtype=torch.int64)), 0)  # noqa: E731
        else:
            run = lambda: elm((batch, torch.zeros(1, dtype=torch.int64)))  # noqa: E731
        with FlopCounterMode(display=False) as counter, micro_batch_seed(0):
            run()
    assert counter.get_total_flops() == sum(layer_forward_flops(model, GRID))


@every_variant
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = describe(name, drop_path=0.2)
    elm, batch = build(model).train(), random_batch(model)
    with micro_batch_seed(3):
        build_loss(model, code_shape(model, GRID))(elm(batch), batch[0]).backward()
    without = [name for name, parameter in elm.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not without


def step_through(decoder: Decoder, x: Tensor, position: int, codes: Tensor, row: int = 0) -> Tensor:
    """Return the logits of all sub-tokens where `codes` (rows, outputs, subtokens) are drawn, in as many calls as are.

    These are the codes after the last positions of `x`.
    """
    logits = decoder.step(x, position, row, codes.shape[1])
    while (count := logits.shape[2]) < codes.shape[2]:
        more = decoder.step(Drawn(codes[:, :, :count]), position, row, codes.shape[1])
        logits = torch.cat([logits, more], dim=2)
    return logits


@pytest.mark.parametrize("name", [name for name, options in VARIANTS.items() if "modelling" not in options])
def test_decoding_step_by_step_gives_the_logits_of_the_whole_sequence(name: str) -> None:
    model = describe(name)
    elm, (packed, labels) = build(model), random_batch(model)
    ids = unpack_subtokens(packed, code_shape(model, GRID))
    expected = elm((packed, labels))
    decoder = DECODERS[model.modelling](elm, len(labels))
    inputs = zip([labels, *ids[:, :-1].split(1, dim=1)], ids.split(1, dim=1), strict=True)
    found = torch.cat([step_through(decoder, x, position, codes) for position, (x, codes) in enumerate(inputs)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    prefilled = DECODERS[model.modelling](elm, len(labels))  # in two halves, and many positions at once
    for rows in (slice(0, 1), slice(1, 3)):
        prefilled.step(labels[rows], 0, rows.start)
        found = step_through(prefilled, ids[rows, :-1], 1, ids[rows, 1:], rows.start)
        torch.testing.assert_close(found, expected[rows, 1:], rtol=1e-5, atol=1e-5)


@every_variant
def test_the_stream_is_as_long_as_is_said(name: str) -> None:
    model = describe(name)
    stream = build(model)[0](random_batch(model))
    assert stream.shape == (3, stream_length(model, GRID), 32)


@every_variant
def test_the_loss_starts_where_nothing_is_known(name: str) -> None:
    """Heads of zero know nothing; a masked head compares with tables, whose logits are small at first."""
    model = describe(name)
    elm = ELM(layer_specs(model, GRID)).eval()
    initialize(elm.named_parameters(), seed=0)
    rows, labels = random_batch(model)
    loss = build_loss(model, code_shape(model, GRID))(elm((rows, labels)), rows).item()
    assert loss == pytest.approx(5 * math.log(2), abs=0.05 if model.modelling == "masked" else 1e-6)


def test_a_masked_model_sees_all_that_is_shown_and_nothing_that_is_hidden() -> None:
    model = describe("masked")
    elm, shape = build(model), code_shape(describe("masked"), GRID)
    rows, labels = random_batch(model)
    rows[:, shape.packed_bytes :] = torch.tensor([0b11110000, 0b00001111], dtype=torch.uint8)  # hides 4 to 11
    rows[:, shape.packed_bytes] ^= 255
    shown, hidden = rows.clone(), rows.clone()
    shown[:, 0] ^= 255  # cell 0
    hidden[:, 7] ^= 255  # bits 56 to 63 = cells 5 and 6 of 10 bits each
    before = elm((rows, labels))
    assert torch.equal(before, elm((hidden, labels)))
    assert ((before - elm((shown, labels))).abs().amax(dim=(2, 3)) > 0).all()


def test_a_masked_head_teaches_the_tables_nothing() -> None:
    model = describe("masked", num_layers=1)
    elm, (rows, labels) = build(model), random_batch(model)
    ids = elm.embedding.input_ids(rows)
    build_loss(model, code_shape(model, GRID))(elm((rows, labels)), rows).backward()
    for index, table in enumerate(elm.embedding.codes):
        used = set(ids[..., index].unique().tolist())
        assert {row for row in range(33) if table.weight.grad[row].any()} <= used


def test_with_an_adaptive_norm_a_model_starts_as_without() -> None:
    plain, adaptive = (ELM(layer_specs(describe(name), GRID)) for name in ("plain", "adaptive"))
    for elm in (plain, adaptive):
        initialize(elm.named_parameters(), seed=0)
        torch.nn.init.normal_(elm.head.outputs[0].weight, generator=torch.Generator().manual_seed(2))
    batch = random_batch(describe("plain"))
    torch.testing.assert_close(adaptive.eval()(batch), plain.eval()(batch), rtol=0, atol=1e-6)


def test_an_adaptive_norm_scales_shifts_and_gates() -> None:
    adaln, label, x = AdaLN(8), torch.randn(2, 1, 8), torch.randn(2, 5, 8)
    shift, scale, gate = (F.silu(label) @ part.T for part in adaln.modulate.weight.chunk(6)[3:])
    modulation = adaln(label)[1]
    torch.testing.assert_close(modulation.before(x), x * (1 + scale) + shift)
    torch.testing.assert_close(modulation.after(x), x * (1 + gate))


def test_a_cosine_knows_directions_alone_and_its_sharpness_is_bounded() -> None:
    cosine = Cosine(heads=2)
    q, k = torch.randn(2, 1, 4, 2, 8).unbind()
    found = torch.einsum("blhd,bmhd->bhlm", *cosine(q, k)) / 8**0.5
    expected = 10 * F.cosine_similarity(q.transpose(1, 2).unsqueeze(3), k.transpose(1, 2).unsqueeze(2), dim=4)
    torch.testing.assert_close(found, expected)
    for one, other in zip(cosine(q, k), cosine(3 * q, 0.1 * k), strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        cosine.scale.fill_(1e6)
    assert cosine(q, k)[0].norm(dim=3).max().item() == pytest.approx(SHARPEST * 8**0.5)
    zero = torch.zeros_like(q)
    assert torch.equal(cosine(zero, k)[0], zero), "the class's query, which has no direction"


def test_normed_queries_and_keys_have_the_length_of_their_weights() -> None:
    q, k = NormedDotProduct(8, "torch")(torch.randn(1, 4, 2, 8), 100 * torch.randn(1, 4, 2, 8))
    for part in (q, k):
        torch.testing.assert_close(part.norm(dim=3), torch.full((1, 4, 2), 8**0.5), rtol=1e-3, atol=0)


@pytest.mark.parametrize("kernel", ["reference", "sdpa"])
@pytest.mark.parametrize("queries", [1, 3, 6])
def test_groups_of_heads_share_keys_and_values(kernel: str, queries: int) -> None:
    q, k, v = torch.randn(2, 4, queries, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    found = ATTENTION[kernel](q, k, v, True)
    expected = ATTENTION[kernel](q, *(part.repeat_interleave(2, dim=1) for part in (k, v)), True)
    torch.testing.assert_close(found, expected)


def test_grouped_heads_equal_heads_of_their_own_with_the_same_weights() -> None:
    grouped, full = Attention(describe("grouped"), GRID), Attention(describe("plain"), GRID)
    with torch.no_grad():
        q, k, v = grouped.qkv.weight.split([32, 16, 16])
        repeated = [part.unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1) for part in (k, v)]
        full.qkv.weight.copy_(torch.cat([q, *repeated]))
        full.output.weight.copy_(grouped.output.weight)
    x = torch.randn(2, 12, 32)
    torch.testing.assert_close(grouped(x, grouped.table(x)), full(x, full.table(x)), rtol=1e-5, atol=1e-6)


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    path, x = DropPath(0.25, "site").train(), torch.ones(4000, 3, 2)
    y = path(x, seed=1)
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(y.amin(dim=(1, 2)), y.amax(dim=(1, 2)))
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(path.eval()(x, None), x)


def test_drop_path_grows_with_depth() -> None:
    blocks = list(ELM(layer_specs(describe("plain", drop_path=0.2), GRID)))[1:-1]
    assert [block.attention_path.share for block in blocks] == pytest.approx([0, 0.1, 0.2])
    assert len({block.attention_path.site for block in blocks}) == 3

import math

import pytest
import torch
from golden_models import load_golden_elm

from elm_dist.codes.packing import pack_bits, subtokens_to_bits, unpack_subtokens
from elm_dist.config import Grid, ModelConfig
from elm_dist.model.cost import count_parameters, layer_parameters
from elm_dist.model.elm import ELM, Decoder, code_shape, initialize, layer_specs
from elm_dist.model.layers import micro_batch_seed
from elm_dist.model.loss import CodeLoss

SIZES = {"B": (12, 768, 12), "L": (24, 1024, 16), "XL": (36, 1280, 20), "XXL": (48, 1536, 24), "2B": (48, 1792, 28)}
SIZES["XXXL"] = (48, 2560, 40)

PUBLISHED_PARAMETERS = [
    ("L", "1-16", 443_574_272),
    ("L", "2-8", 312_502_272),
    ("L", "2-10", 315_648_000),
    ("L", "2-12", 328_230_912),
    ("XL", "1-16", 900_528_640),
    ("XL", "2-8", 737_344_000),
    ("XL", "2-10", 741_276_160),
    ("XL", "2-12", 757_004_800),
    ("XL", "3-8", 739_637_760),
    ("XXL", "1-16", 1_561_967_616),
    ("XXL", "2-8", 1_366_932_480),
    ("XXL", "2-10", 1_371_651_072),
    ("XXL", "2-12", 1_390_525_440),
    ("XXL", "3-8", 1_370_078_208),
    ("XXL", "4-8", 1_373_223_936),
    ("2B", "2-12", 1_909_458_432),
    ("XXXL", "2-12", 3_864_192_000),
    ("XXXL", "2-16", 4_493_337_600),
]

TINY = ModelConfig(num_layers=3, hidden_size=32, num_heads=2, subtokens=2, subtoken_bits=5, num_classes=4, dropout=0.1)
GRID = Grid(4, 4)


def model_config(size: str, decomposition: str) -> ModelConfig:
    layers, hidden, heads = SIZES[size]
    subtokens, bits = map(int, decomposition.split("-"))
    return ModelConfig(num_layers=layers, hidden_size=hidden, num_heads=heads, subtokens=subtokens, subtoken_bits=bits)


def build(model: ModelConfig = TINY, grid: Grid = GRID, **options: int) -> ELM:
    elm = ELM(layer_specs(model, grid, **options))
    initialize(elm.named_parameters(), seed=0)
    return elm


def random_batch(model: ModelConfig = TINY, grid: Grid = GRID, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    packed = torch.randint(0, 256, (batch, code_shape(model, grid).packed_bytes), generator=generator)
    return packed.to(torch.uint8), torch.randint(0, model.num_classes + 1, (batch,), generator=generator)


def randomize_head(elm: ELM) -> None:
    for output in elm.head.outputs:
        torch.nn.init.normal_(output.weight, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("size", "decomposition", "published"), PUBLISHED_PARAMETERS)
def test_parameter_counts_are_the_published_ones(size: str, decomposition: str, published: int) -> None:
    model = model_config(size, decomposition)
    with torch.device("meta"):
        elm = ELM(layer_specs(model, Grid(16, 16)))
    assert sum(p.numel() for p in elm.parameters()) == published
    assert [sum(p.numel() for p in layer.parameters()) for layer in elm] == layer_parameters(model, Grid(16, 16))
    assert count_parameters(model, Grid(16, 16)) == published


@pytest.mark.parametrize(
    ("hidden", "inner"), [(768, 2048), (1024, 2816), (1280, 3584), (1536, 4096), (1792, 4864), (2560, 6912)]
)
def test_feed_forward_sizes_are_the_published_ones(hidden: int, inner: int) -> None:
    model = ModelConfig(num_layers=1, hidden_size=hidden, num_heads=hidden // 64, subtokens=1, subtoken_bits=8)
    assert model.feed_forward_size == inner


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_loss_starts_at_bits_times_ln_2(bits: int) -> None:
    model = TINY.model_copy(update={"subtoken_bits": bits, "subtokens": 1})
    loss = CodeLoss(code_shape(model, GRID))
    packed, labels = random_batch(model)
    assert loss(build(model).eval()((packed, labels)), packed).item() == pytest.approx(bits * math.log(2), abs=1e-5)


@pytest.mark.parametrize("name", ["ar_1-6", "ar_2-5"])
def test_logits_and_loss_equal_the_published_implementation(name: str) -> None:
    elm, model, golden, grid = load_golden_elm(name)
    shape = code_shape(model, grid)
    packed = pack_bits(subtokens_to_bits(golden["codes"], model.subtoken_bits).flatten(1))
    logits = elm((packed, golden["classes"]))
    torch.testing.assert_close(logits, golden["logits"], rtol=0, atol=1e-5)
    null = elm((packed, torch.full_like(golden["classes"], model.num_classes)))
    torch.testing.assert_close(null, golden["null_logits"], rtol=0, atol=1e-5)
    assert CodeLoss(shape)(logits, packed).item() == pytest.approx(golden["loss"].item(), abs=1e-6)


def test_a_position_sees_only_what_came_before() -> None:
    elm = build().eval()
    randomize_head(elm)
    packed, labels = random_batch()
    changed = packed.clone()
    changed[:, 10] ^= 255  # byte 10 = bits 80 to 87 = the codes of cell 8, 10 bits each
    before, after = elm((packed, labels)), elm((changed, labels))
    assert torch.equal(before[:, :9], after[:, :9])  # position p predicts cell p and reads cells up to p - 1
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_decoding_step_by_step_gives_the_logits_of_the_whole_sequence() -> None:
    elm = build().eval()
    randomize_head(elm)
    packed, labels = random_batch()
    ids = unpack_subtokens(packed, code_shape(TINY, GRID))
    step = Decoder(elm, len(labels)).step
    inputs = [labels, *(ids[:, p : p + 1] for p in range(GRID.cells - 1))]
    logits = torch.cat([step(x, position) for position, x in enumerate(inputs)], dim=1)
    torch.testing.assert_close(logits, elm((packed, labels)), rtol=1e-5, atol=1e-5)


def test_a_prefill_leaves_the_cache_as_so_many_steps_would() -> None:
    elm = build().eval()
    randomize_head(elm)
    packed, labels = random_batch()
    ids = unpack_subtokens(packed, code_shape(TINY, GRID))
    steps, prefill = Decoder(elm, len(labels)), Decoder(elm, len(labels))
    for position, x in enumerate([labels, *ids.split(1, dim=1)[:9]]):
        expected = steps.step(x, position)
    prefill.step(labels, 0)
    found = torch.cat([prefill.step(ids[:1, :9], 1), prefill.step(ids[1:, :9], 1, row=1)])
    assert found.shape == (3, 1, 2, 32)  # of the last position alone
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for index, cache in steps.caches.items():
        torch.testing.assert_close(prefill.caches[index].keys, cache.keys, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(prefill.caches[index].values, cache.values, rtol=1e-5, atol=1e-5)
        assert cache.keys[:, :, 1:10].any()
        assert not cache.keys[:, :, 10:].any()
    after = [decoder.step(ids[:, 9:10], 10) for decoder in (steps, prefill)]
    torch.testing.assert_close(*after, rtol=1e-5, atol=1e-5)


def test_weights_depend_on_seed_and_name_alone() -> None:
    one, two = build(), build(TINY.model_copy(update={"num_layers": 2}))
    shared = dict(two.named_parameters())
    assert all(torch.equal(p, shared[name]) for name, p in one.named_parameters() if name in shared)
    assert not torch.equal(one.block_0.attention.qkv.weight, one.block_1.attention.qkv.weight)
    assert one.block_0.feed_forward.up.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not one.head.outputs[0].weight.any()


def gradients(elm: ELM, seed: int) -> dict[str, torch.Tensor]:
    packed, labels = random_batch()
    elm.zero_grad()
    with micro_batch_seed(seed):
        CodeLoss(code_shape(TINY, GRID))(elm((packed, labels)), packed).backward()
    return {name: p.grad.clone() for name, p in elm.named_parameters()}


def test_recomputing_activations_changes_no_gradient() -> None:
    kept, recomputed = build(), build(checkpoint_every_blocks=2)
    randomize_head(kept)
    randomize_head(recomputed)
    assert [layer.recompute for layer in list(recomputed)[1:-1]] == [True, False, True]
    expected, found = gradients(kept, seed=5), gradients(recomputed, seed=5)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_dropout_follows_the_micro_batch_alone() -> None:
    elm = build()
    randomize_head(elm)
    first, other, again = gradients(elm, seed=5), gradients(elm, seed=6), gradients(elm, seed=5)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["block_0.attention.qkv.weight"], other["block_0.attention.qkv.weight"])


def test_loss_counts_per_head_until_it_is_reset() -> None:
    shape = code_shape(TINY, GRID)
    loss = CodeLoss(shape)
    packed, labels = random_batch()
    value = loss(build().eval()((packed, labels)), packed)
    *sums, count = loss.sums.tolist()
    assert count == 3 * 16
    assert sum(sums[:2]) / 2 / count == pytest.approx(value.item())
    loss.reset()
    assert not loss.sums.any()

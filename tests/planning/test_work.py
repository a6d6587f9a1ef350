"""What the planner says that layers keep, against what autograd saves of the layers themselves."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from planned import size

from elm_dist.config import Grid, ModelConfig
from elm_dist.model.elm import code_shape, layer_specs, share_tables
from elm_dist.model.layers import micro_batch_seed
from elm_dist.model.loss import build_loss
from elm_dist.model.masking import row_bytes
from elm_dist.planning.hardware import find_gpu
from elm_dist.planning.work import layer_activations, plan_layers

GRID = Grid(4, 4)


def saved(run: Callable[[], object], *parameters: torch.Tensor) -> int:
    """Return the bytes of the storages that autograd saves in `run`, parameters left out."""
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = run()
    assert kept is not None
    return sum(storage.nbytes() for storage in storages.values())


def saved_by_layers(model: ModelConfig, dtype: torch.dtype, batch: int, every: int = 0) -> list[int]:
    """Return what each layer saves for a batch, and at last the loss."""
    layers = [spec.build().to(dtype) for spec in layer_specs(model, GRID, every)]
    share_tables(layers)
    shape = code_shape(model, GRID)
    codes = torch.full((batch, row_bytes(model, shape)), 255, dtype=torch.uint8)  # a mask hides all of it
    stream: object = (codes, torch.zeros(batch, dtype=torch.long))
    loss, found = build_loss(model, shape), []
    with micro_batch_seed(1):
        for layer in layers:
            results: list[object] = []
            found.append(saved(lambda: results.append(layer(stream)) or results, *layer.parameters()))  # noqa: B023
            stream = results[0]
    assert isinstance(stream, torch.Tensor)
    return [*found, saved(lambda: loss(stream, codes))]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_layers_keep_what_is_planned(dtype: torch.dtype, dropout: float) -> None:
    model = ModelConfig(
        num_layers=2, hidden_size=64, num_heads=4, subtokens=2, subtoken_bits=5, num_classes=10, dropout=dropout
    )
    positions, element = GRID.cells, dtype.itemsize
    few, many = saved_by_layers(model, dtype, 2), saved_by_layers(model, dtype, 6)
    # Between two batches, so that tables and copies of weights do not count.
    embedding, *blocks, head, loss = [(b - a) / (4 * positions) for a, b in zip(few, many, strict=True)]
    planned = layer_activations(model, element)
    # On a CPU the norm is several operations, and one more keeps the normalized stream, in fp32.
    on_cpu = 4 * model.hidden_size
    assert blocks == [planned[1] + 2 * on_cpu] * 2
    assert head == planned[-1] + on_cpu
    last_code = element * model.subtokens * model.hidden_size / positions  # it is no input
    assert embedding == pytest.approx(planned[0] - last_code, abs=8 * model.subtokens)
    assert loss == 4 * model.subtokens * model.vocabulary + 8 * model.subtokens  # of the 12 that it has at a time


@pytest.mark.parametrize(
    ("variant", "tolerance"),
    [
        ({"key_value_heads": 2}, 0),
        ({"position_encoding": "learned"}, 0),
        ({"position_encoding": "rope_1d"}, 0),
        ({"modelling": "masked"}, 0),
        ({"conditioning": "adaln"}, 0.05),
        ({"qk_norm": True}, 0.12),
        ({"attention": "cosine"}, 0.08),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_blocks_of_variants_keep_about_what_is_planned(
    dtype: torch.dtype, variant: dict[str, Any], tolerance: float
) -> None:
    """Where norms and factors are several operations on a CPU, they keep some more, or the same twice."""
    sizes = {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "subtokens": 2, "subtoken_bits": 5, "num_classes": 10}
    model = ModelConfig(**sizes | {"dropout": 0.0} | variant)
    length = GRID.cells + (model.modelling == "masked")
    few, many = saved_by_layers(model, dtype, 2), saved_by_layers(model, dtype, 6)
    found = [(b - a) / (4 * length) for a, b in zip(few, many, strict=True)]
    on_cpu = 4 * model.hidden_size
    planned = layer_activations(model, dtype.itemsize)
    assert found[1] == found[2] == pytest.approx(planned[1] + 2 * on_cpu, rel=tolerance)
    assert found[-2] * length / GRID.cells == pytest.approx(planned[-1] + on_cpu, rel=0.03)


def test_recomputed_blocks_keep_their_input_alone() -> None:
    model = ModelConfig(num_layers=4, hidden_size=64, num_heads=4, subtokens=2, subtoken_bits=5, num_classes=10)
    few = saved_by_layers(model, torch.bfloat16, 2, every=2)
    many = saved_by_layers(model, torch.bfloat16, 6, every=2)
    blocks = [(b - a) / (4 * GRID.cells) for a, b in zip(few, many, strict=True)][1:5]
    assert blocks[0] == blocks[2] == 2 * model.hidden_size
    assert blocks[1] == blocks[3] > 20 * model.hidden_size
    layers = plan_layers(size("l", "parallel.checkpoint_every_blocks=2"), find_gpu("a100-80gb"))
    kept = [layer.kept for layer in layers[1:-1]]
    assert kept[0::2] == [32 * 256 * 2 * 1024] * 12
    assert all(layer.recomputed == kept[1] for layer in layers[1:-1:2])
    assert all(layer.recomputed == 0 for layer in layers[2:-1:2])


def test_recomputing_costs_a_forward_pass() -> None:
    gpu = find_gpu("a100-80gb")
    plain, again = (plan_layers(size("l", f"parallel.checkpoint_every_blocks={n}"), gpu)[1] for n in (0, 1))
    assert again.input_gradient == pytest.approx(plain.input_gradient + plain.forward)
    assert again.forward == plain.forward


def test_small_micro_batches_wait_for_the_cpu() -> None:
    gpu = find_gpu("h100-80gb")
    one, two = (plan_layers(size("b", f"schedule.micro_batch_size={n}"), gpu)[1].forward for n in (1, 2))
    assert one == two == 40 * 6e-6
    assert plan_layers(size("b", "schedule.micro_batch_size=64"), gpu)[1].forward > one

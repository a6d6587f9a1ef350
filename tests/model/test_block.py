import pytest
import torch
from torch._dynamo.utils import counters

from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import Grid, ModelConfig
from elm_dist.model.elm import ELM, initialize, layer_specs
from elm_dist.model.kernels import Kernels
from elm_dist.model.layers import micro_batch_seed
from elm_dist.model.loss import CodeLoss

# More blocks than torch.compile would compile one by one.
MODEL = ModelConfig(num_layers=9, hidden_size=32, num_heads=2, subtokens=2, subtoken_bits=4, num_classes=4, dropout=0.1)
GRID = Grid(4, 4)


def loss_and_gradients(kernels: Kernels) -> tuple[float, dict[str, torch.Tensor]]:
    """Return what one micro-batch gives in training, where every third block recomputes its activations."""
    elm = ELM(layer_specs(MODEL, GRID, 3, kernels))
    initialize(elm.named_parameters(), seed=0)
    generator = torch.Generator().manual_seed(1)
    for output in elm.head.outputs:
        torch.nn.init.normal_(output.weight, generator=generator)
    packed = torch.randint(0, 256, (3, GRID.cells), generator=generator).to(torch.uint8)
    with micro_batch_seed(5):
        loss = CodeLoss(CodeShape(GRID.cells, 2, 4))(elm((packed, torch.tensor([0, 3, 4]))), packed)
        loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in elm.named_parameters()}


def assert_same_training(kernels: Kernels) -> None:
    """The bounds: losses relatively within 1e-6 of each other, each parameter's gradient within 1e-5 of its norm."""
    (expected, gradients), (found, others) = loss_and_gradients(Kernels()), loss_and_gradients(kernels)
    assert found == pytest.approx(expected, rel=1e-6)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (others[name] - gradient).norm() < 1e-5 * gradient.norm(), name


def test_compiled_blocks_train_as_the_others_do() -> None:
    """With the same dropout, recomputation and names; and all blocks share what is compiled for the first."""
    torch._dynamo.reset()
    counters.clear()
    assert_same_training(Kernels(compile_blocks=True))
    assert counters["stats"]["unique_graphs"] == 2  # the two branches of a block
    assert not counters["graph_break"]


def test_reference_attention_trains_as_the_others_do() -> None:
    assert_same_training(Kernels(attention="reference"))

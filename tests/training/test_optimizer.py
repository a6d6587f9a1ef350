import pytest
import torch
from torch import Tensor, nn

from elm_dist.config import OptimizerConfig
from elm_dist.model.kernels import missing_apex
from elm_dist.training.optimizer import build_optimizer, count_updates, initial_state

CONFIG = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
UPDATES = 20


def parameters(device: str = "cpu") -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"block_0.attention.qkv.weight": (24, 9), "block_0.attention_norm.weight": (9,)}
    return [(name, nn.Parameter(torch.randn(shape, generator=generator).to(device))) for name, shape in shapes.items()]


def gradients(update: int, named: list[tuple[str, nn.Parameter]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(update)
    return [torch.randn(p.shape, generator=generator).to(p.device) for _, p in named]


def train(kernel: str, device: str = "cpu") -> list[tuple[str, nn.Parameter]]:
    """Return parameters after `UPDATES` updates, interrupted in the middle as by a checkpoint."""
    named = parameters(device)
    states = [initial_state(p.detach(), CONFIG) for _, p in named]
    for first in (0, UPDATES // 2):
        optimizer = build_optimizer(named, CONFIG, kernel)
        for (_, p), state in zip(named, states, strict=True):
            optimizer.state[p] = state
        for update in range(first, first + UPDATES // 2):
            for (_, p), gradient in zip(named, gradients(update, named), strict=True):
                p.grad = gradient
            optimizer.step()
    assert [int(state["step"]) for state in states] == [UPDATES] * 2
    return named


def adamw_by_definition() -> list[Tensor]:
    """Loshchilov and Hutter's algorithm 2 in fp64, matrices decaying and norms not."""
    named = parameters()
    weights = [p.detach().double() for _, p in named]
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    (beta1, beta2), rate = CONFIG.betas, CONFIG.learning_rate
    for update in range(UPDATES):
        for w, (m, v), gradient in zip(weights, moments, gradients(update, named), strict=True):
            w *= 1 - rate * (CONFIG.weight_decay if w.ndim > 1 else 0)
            m.mul_(beta1).add_((1 - beta1) * gradient.double())
            v.mul_(beta2).add_((1 - beta2) * gradient.double() ** 2)
            corrected = (v / (1 - beta2 ** (update + 1))).sqrt() + 1e-8
            w -= rate * (m / (1 - beta1 ** (update + 1))) / corrected
    return weights


@pytest.mark.parametrize("kernel", ["torch", pytest.param("apex", marks=pytest.mark.gpu)])
def test_every_backend_computes_adamw_and_goes_on_after_a_checkpoint(kernel: str) -> None:
    if kernel == "apex" and (problem := missing_apex("optimizer")):
        pytest.skip(problem)
    named = train(kernel, "cuda" if kernel == "apex" else "cpu")
    for (_, found), expected in zip(named, adamw_by_definition(), strict=True):
        torch.testing.assert_close(found.detach().double().cpu(), expected, rtol=1e-5, atol=1e-6)


def test_the_update_does_not_depend_on_how_weights_are_cut() -> None:
    """Which is what ZeRO and pipelines rest on: they step flat partitions of any size."""
    generator = torch.Generator().manual_seed(0)
    start, gradient = torch.randn(2, 1017, generator=generator)
    results = []
    for cuts in ([1017], [1, 7, 8, 15, 986]):
        pieces = [nn.Parameter(piece.clone()) for piece in start.split(cuts)]
        optimizer = build_optimizer([(f"w{i}", piece) for i, piece in enumerate(pieces)], CONFIG)
        for _ in range(3):
            for piece, part in zip(pieces, gradient.split(cuts), strict=True):
                piece.grad = part.clone()
            optimizer.step()
        results.append(torch.cat([piece.detach() for piece in pieces]))
    assert torch.equal(*results)


def test_groups_are_told_the_updates_that_the_state_has_seen() -> None:
    """Where apex counts: here of an optimizer that does not."""
    named = parameters()
    optimizer = build_optimizer(named, OptimizerConfig(name="sgd"))
    for _, p in named:
        optimizer.state[p]["step"] = torch.tensor(7.0)
    optimizer.register_step_pre_hook(count_updates)
    optimizer.step()
    assert [group["step"] for group in optimizer.param_groups] == [7, 7]
    assert [int(optimizer.state[p]["step"]) for _, p in named] == [8, 8]

"""Every way to compute attention against its definition, position by position in fp64."""

import pytest
import torch
from torch import Tensor

from elm_dist.model.attention import ATTENTION, missing_flash_attention

BATCH, HEADS, LENGTH, HEAD_SIZE = 2, 3, 33, 32
# Largest error of outputs and gradients, where queries, keys, values and gradients are drawn from N(0, 1).
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 4e-2}
BACKENDS = ["reference", "sdpa", pytest.param("flash", marks=pytest.mark.gpu)]


def random_inputs(dtype: torch.dtype, device: str) -> list[Tensor]:
    """Return queries, keys, values and an output's gradient (batch, heads, length, head_size)."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn((4, BATCH, HEADS, LENGTH, HEAD_SIZE), generator=generator)
    return [draw.to(device, dtype).requires_grad_() for draw in draws]


def by_definition(case: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows = []
    for position in range(LENGTH):
        seen = LENGTH if case == "full" else position + 1
        scores = (k[:, :, :seen] @ q[:, :, position].unsqueeze(3)).squeeze(3) / HEAD_SIZE**0.5
        rows.append((scores.softmax(dim=2).unsqueeze(3) * v[:, :, :seen]).sum(dim=2))
    return torch.stack(rows, dim=2)


def compute(case: str, backend: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    attend = ATTENTION[backend]
    if case == "prefilled":  # the first half, then the second half, which sees the first
        half = LENGTH // 2
        first = attend(q[:, :, :half], k[:, :, :half], v[:, :, :half], True)
        return torch.cat([first, attend(q[:, :, half:], k, v, True)], dim=2)
    if case != "cached":
        return attend(q, k, v, case == "causal")
    steps = [(q[:, :, p : p + 1], k[:, :, : p + 1], v[:, :, : p + 1]) for p in range(LENGTH)]
    return torch.cat([attend(*step, False) for step in steps], dim=2)


@pytest.mark.parametrize("dtype", BOUNDS, ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", ["causal", "full", "cached", "prefilled"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_computes_attention(backend: str, case: str, dtype: torch.dtype) -> None:
    """Causal as in training, full as in masked modelling, cached and prefilled as in sampling; forward and backward."""
    if backend == "flash" and (problem := missing_flash_attention()):
        pytest.skip(problem)
    if backend == "flash" and dtype == torch.float32:
        pytest.skip("flash-attn computes in bf16 or fp16")
    *inputs, gradient = random_inputs(dtype, "cuda" if backend == "flash" else "cpu")
    found = compute(case, backend, *inputs)
    assert found.dtype == dtype
    exact = [x.detach().double().cpu().requires_grad_() for x in inputs]
    expected = by_definition(case, *exact)
    pairs = [(found, expected)]
    pairs += zip(
        torch.autograd.grad(found, inputs, gradient),
        torch.autograd.grad(expected, exact, gradient.double().cpu()),
        strict=True,
    )
    for one, two in pairs:
        assert (one.double().cpu() - two).abs().max() < BOUNDS[dtype]


def test_flash_attention_says_why_it_cannot_be_called() -> None:
    if missing_flash_attention() is None:
        pytest.skip("flash-attn is installed here")
    assert missing_flash_attention() == "flash-attn does not import (No module named 'flash_attn')"

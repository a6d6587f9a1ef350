import pytest
import torch

from elm_dist.model.kernels import missing_apex
from elm_dist.model.layers import RMS_NORM, Dropout, RMSNorm, SwiGLU


def test_rms_norm_is_computed_in_fp32() -> None:
    norm = RMSNorm(64).bfloat16()
    x = torch.randn(2, 64).bfloat16() * 100
    expected = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)
    assert torch.equal(norm(x), expected.bfloat16())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_apex_normalizes_as_pytorch_does(dtype: torch.dtype) -> None:
    """Within one rounding of the type: outputs and both gradients."""
    if problem := missing_apex("norm"):
        pytest.skip(problem)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((6, 512), generator=generator).to("cuda", dtype).requires_grad_()
    weight = torch.randn(512, generator=generator).to("cuda", dtype).requires_grad_()
    results = [RMS_NORM[kernel](x, weight, 1e-5) for kernel in ("torch", "apex")]
    gradients = [torch.autograd.grad(y, (x, weight), torch.ones_like(y)) for y in results]
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(results[1], results[0], rtol=bound, atol=bound)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=bound, atol=bound)


def test_swiglu_is_gated_by_silu() -> None:
    layer, x = SwiGLU(8, 16), torch.randn(3, 8)
    gate = x @ layer.gate.weight.T
    expected = (gate * gate.sigmoid() * (x @ layer.up.weight.T)) @ layer.down.weight.T
    torch.testing.assert_close(layer(x), expected)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    dropped = Dropout(0.25, "here")(torch.ones(100_000), seed=1)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)


def test_dropout_differs_between_sites_and_seeds_but_not_between_calls() -> None:
    x = torch.ones(1000)
    here, there = Dropout(0.5, "here"), Dropout(0.5, "there")
    assert torch.equal(here(x, seed=1), here(x, seed=1))
    assert not torch.equal(here(x, seed=1), here(x, seed=2))
    assert not torch.equal(here(x, seed=1), there(x, seed=1))


def test_dropout_does_nothing_outside_training() -> None:
    x = torch.ones(10)
    assert Dropout(0.5, "here").eval()(x, seed=None) is x

"""The small parts of a block: RMS norm, SwiGLU, and dropout whose masks belong to the data.

Knows nothing of processes: whoever runs a micro-batch says which one it is, with `micro_batch_seed`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.randomness import derive_seed

_micro_batch_seed: ContextVar[int] = ContextVar("micro_batch_seed")


@contextmanager
def micro_batch_seed(seed: int) -> Iterator[None]:
    """Name the micro-batch that is computed inside, so that its dropout is the same on every layout."""
    token = _micro_batch_seed.set(seed)
    try:
        yield
    finally:
        _micro_batch_seed.reset(token)


def current_micro_batch_seed() -> int:
    return _micro_batch_seed.get()


class Dropout(nn.Module):
    """Dropout whose mask is a pure function of the micro-batch's seed and of this module's `site` in the model."""

    def __init__(self, share: float, site: str) -> None:
        super().__init__()
        self.share = share
        self.site = site

    def mask_shape(self, x: Tensor) -> Sequence[int]:
        """Return the shape of what is drawn for `x`."""
        return x.shape

    def forward(self, x: Tensor, seed: int | None) -> Tensor:
        """Drop from `x` (any shape). `seed` is the micro-batch's; None outside training."""
        if not self.training or self.share == 0:
            return x
        assert seed is not None, "dropout in training needs to know its micro-batch"
        generator = torch.Generator(x.device).manual_seed(derive_seed(seed, self.site))
        keep = torch.rand(self.mask_shape(x), generator=generator, device=x.device) >= self.share
        return x * keep / (1 - self.share)


class DropPath(Dropout):
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382): drops whole images of a batch (batch, ...)."""

    def mask_shape(self, x: Tensor) -> Sequence[int]:
        return len(x), *(1 for _ in x.shape[1:])


def torch_rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return F.rms_norm(x.float(), weight.shape, weight.float(), epsilon).to(x.dtype)


def apex_rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """NVIDIA apex's fused kernel, on a GPU; it computes in fp32 inside."""
    from apex.normalization.fused_layer_norm import fused_rms_norm_affine

    return fused_rms_norm_affine(x, weight, weight.shape, eps=epsilon)


RMS_NORM: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"torch": torch_rms_norm, "apex": apex_rms_norm}


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned weight, computed in fp32 whatever the model's precision.

    `kernel`, one of `RMS_NORM`, computes it.
    """

    def __init__(self, size: int, kernel: str = "torch", epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.normalize = RMS_NORM[kernel]
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.normalize(x, self.weight, self.epsilon)


class SwiGLU(nn.Module):
    """The gated feed-forward layer: down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, size: int, inner_size: int) -> None:
        super().__init__()
        self.gate = nn.Linear(size, inner_size, bias=False)
        self.up = nn.Linear(size, inner_size, bias=False)
        self.down = nn.Linear(inner_size, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))

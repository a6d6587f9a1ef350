"""The exponential moving average of the weights, which samples are drawn from."""

import torch

from elm_dist.parallel.state import OptimizerState


class Ema:
    """Averages the master weights of this rank after each step: average = decay * average + (1 - decay) * weight."""

    def __init__(self, state: OptimizerState, decay: float) -> None:
        self._state = state
        self._decay = decay

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self._state.entries("ema"), [*self._state.masters()], 1 - self._decay)

"""The optimizer of a run and its learning rate. Knows nothing of processes."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from elm_dist.config import OptimizerConfig


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> torch.optim.Optimizer:
    """Return AdamW or plain SGD over the parameters; matrices and tables decay, vectors (the norms) do not."""
    parameters = [parameter for _, parameter in named_parameters]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


def initial_state(master: Tensor, config: OptimizerConfig) -> dict[str, Tensor]:
    """Return the whole state of one master weight before the first update: AdamW's, and the averaged weight.

    The average lives here, among the optimizer's own entries, so ZeRO divides it and checkpoints carry it like them.
    """
    state = {"ema": master.detach().clone()}
    if config.name == "adamw":
        state["step"] = torch.tensor(0.0)
        state["exp_avg"] = torch.zeros_like(master)
        state["exp_avg_sq"] = torch.zeros_like(master)
    return state


def scheduled_learning_rate(step: int, total_steps: int, peak: float, warmup_steps: int, final_share: float) -> float:
    """Return the learning rate of update `step`, counted from 0.

    It rises in equal parts to `peak` over `warmup_steps` updates and then falls along half a cosine, to reach
    `peak * final_share` at the last update. `final_share=1` keeps it constant; without warm-up it starts at `peak`.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps))
    return peak * (final_share + (1 - final_share) * (1 + math.cos(math.pi * progress)) / 2)

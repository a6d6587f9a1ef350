"""The optimizer of a run and its learning rate. Knows nothing of processes."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from elm_dist.config import OptimizerConfig
from elm_dist.model.elm import is_vector


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig, kernel: str = "torch"
) -> torch.optim.Optimizer:
    """Return AdamW or plain SGD over the parameters, named canonically; vectors do not decay.

    AdamW is PyTorch's, or with `kernel` "apex" NVIDIA's fused one (see `model/kernels.py`).
    """
    named = list(named_parameters)
    groups = [
        {"params": [p for name, p in named if not is_vector(name)], "weight_decay": config.weight_decay},
        {"params": [p for name, p in named if is_vector(name)], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate)
    if kernel == "apex":
        from apex.optimizers import FusedAdam

        optimizer: torch.optim.Optimizer = FusedAdam(groups, lr=config.learning_rate, betas=config.betas)
        optimizer.register_step_pre_hook(count_updates)
        return optimizer
    # Fused into one pass over memory: on a CPU 9 times faster than the default, over ZeRO's flat partitions.
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def count_updates(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Count an update in the state's `step`, as PyTorch's AdamW does, and tell it to the groups, where apex counts.

    So a resumed run corrects its moments by the updates that there were, and not by those since the resume.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            step = optimizer.state[parameter]["step"]
            group["step"] = int(step)  # apex adds one
            step += 1


def initial_state(master: Tensor, config: OptimizerConfig) -> dict[str, Tensor]:
    """Return the whole state of one master weight before the first update: AdamW's, and the averaged weight.

    The average lives here, among the optimizer's own entries, so ZeRO divides it and checkpoints carry it like them.
    """
    state = {"ema": master.detach().clone()}
    if config.name == "adamw":
        state["step"] = torch.zeros((), device=master.device)
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

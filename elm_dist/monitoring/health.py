"""Watches a run for numbers that mean it is broken."""

import math

from elm_dist.errors import TrainingError


def check_finite(step: int, loss: float, grad_norm: float | None) -> None:
    """Raise TrainingError when the loss or the gradient of a step is infinite or not a number."""
    for name, value in (("loss", loss), ("gradient norm", grad_norm)):
        if value is not None and not math.isfinite(value):
            raise TrainingError(
                f"the {name} of step {step:,} is {value}; the last checkpoint is good: start again from it "
                "with a lower optimizer.learning_rate, more schedule.warmup_steps, or gradient clipping"
            )

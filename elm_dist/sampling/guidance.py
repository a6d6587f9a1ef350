"""How strongly each step of sampling follows the class: schedules of classifier-free guidance (paper section 3.6)."""

import math
from collections.abc import Callable

# Each maps (scale S, step s from 0, number of steps N) to the guidance of that step; r = (s + 1) / N.
SCHEDULES: dict[str, Callable[[float, int, int], float]] = {
    "constant": lambda scale, step, steps: scale,
    "linear": lambda scale, step, steps: 1 + (scale - 1) * (step + 1) / steps,
    "cos": lambda scale, step, steps: 1 + (scale - 1) * math.cos(((step + 1) / steps - 1) * math.pi / 2),
    "log": lambda scale, step, steps: 1 + (scale - 1) * math.log(1 + (step + 1) / steps * (math.e - 1)),
    "square": lambda scale, step, steps: 1 + (scale - 1) * ((step + 1) / steps) ** 2,
    "square_root": lambda scale, step, steps: 1 + (scale - 1) * math.sqrt(step / steps),
}


def guidance_scales(schedule: str, scale: float, steps: int, interval: tuple[float, float] = (0.0, 1.0)) -> list[float]:
    """Return the guidance of each of `steps` steps; 1 is none, `scale` is what the schedules grow to.

    Guidance is on from one share of the steps to another, the second excluded; the schedule does not move with it.
    """
    first, end = (round(share * steps) for share in interval)
    return [SCHEDULES[schedule](scale, step, steps) if first <= step < end else 1.0 for step in range(steps)]

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


def guidance_scales(schedule: str, scale: float, steps: int) -> list[float]:
    """Return the guidance of each of `steps` steps; 1 is none, `scale` is what the schedules grow to."""
    return [SCHEDULES[schedule](scale, step, steps) for step in range(steps)]

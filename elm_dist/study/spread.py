"""How far a measure scatters across seeds, and so which differences between variants mean something.

One measure of all variants and seeds is a layout: value = variant + seed + what is left, whose spread is taken to be
the same everywhere and is estimated from all of them together. Two seeds of a variant alone would say next to nothing.
Knows nothing of what is measured.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# Student's t, 97.5 %, of 1, 2, ... degrees of freedom.
STUDENT_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Interval(NamedTuple):
    """A difference and what it lies between, with 95 % confidence."""

    value: float
    low: float
    high: float


class Layout:
    """The values of one measure by variant and seed, at least two seeds of some variant."""

    def __init__(self, values: Mapping[tuple[str, int], float], paired: bool) -> None:
        """With `paired`, a seed means the same to all variants (the order of the data): its effect is taken out."""
        self.values = dict(values)
        self.variants = list(dict.fromkeys(variant for variant, _ in values))
        seeds = sorted({seed for _, seed in values}) if paired else []
        design = np.array(
            [
                [variant == one for one in self.variants] + [seed == one for one in seeds[1:]]
                for variant, seed in values
            ],
            float,
        )
        measured = np.array(list(values.values()))
        self._effects = np.linalg.pinv(design) @ measured
        self._covariance = np.linalg.pinv(design.T @ design)
        self.freedom = len(measured) - int(np.linalg.matrix_rank(design))
        assert self.freedom > 0, "no variant has two seeds"
        left = measured - design @ self._effects
        self.deviation = float(np.sqrt(left @ left / self.freedom))

    def of(self, variant: str) -> list[float]:
        """Return the values of a variant, one for each seed."""
        return [value for (one, _), value in self.values.items() if one == variant]

    def mean(self, variant: str) -> float:
        return float(np.mean(self.of(variant)))

    def difference(self, variant: str, other: str) -> Interval:
        """Return how much larger a variant is than another."""
        contrast = np.zeros(len(self._effects))
        contrast[self.variants.index(variant)] += 1
        contrast[self.variants.index(other)] -= 1
        value = float(contrast @ self._effects)
        width = _student_t(self.freedom) * self.deviation * float(np.sqrt(contrast @ self._covariance @ contrast))
        return Interval(value, value - width, value + width)


def _student_t(freedom: int) -> float:
    return STUDENT_T[min(freedom, len(STUDENT_T)) - 1]

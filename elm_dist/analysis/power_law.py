"""Power laws through measured losses, L = floor + factor * x^-exponent, and how sure their constants are.

For a given exponent the law is a straight line in x^-exponent, whose least squares have a closed form. So the exponent
alone is searched, on a grid that closes in, for all bootstrap samples at once, and there is no start to choose. Knows
nothing of models and runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elm_dist.errors import EvaluationError
from elm_dist.randomness import generator

Floats = NDArray[np.float64]

FEWEST_FOR_FLOOR = 4  # places to measure at; three of them would fix three constants and leave nothing to doubt them by
EXPONENTS = (0.01, 10.0)  # between which is searched
GRID, ROUNDS = 24, 7  # each round looks between the neighbours of the best: (2/23)^7 of the range is left, 3e-7
INTERVAL = (0.025, 0.975)


class Measurement(NamedTuple):
    """What was measured at one x: the loss of one run, or of several that differ in their seed alone."""

    x: float
    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.losses))


class PowerLaw(NamedTuple):
    floor: float  # the loss that no x gets below
    factor: float
    exponent: float

    def __call__(self, x: ArrayLike) -> Floats:
        return self.floor + self.factor * np.asarray(x, np.float64) ** -self.exponent


class Facts(dict[str, Any]):
    """Numbers for a file of JSON that, printed, are a sentence."""

    def __init__(self, sentence: str, **numbers: Any) -> None:
        super().__init__(numbers)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class FittedLaw:
    """The law of least squares, and those of the bootstrap samples, as many as `samples` has."""

    law: PowerLaw
    has_floor: bool
    resampled: str  # what bootstrap samples are made of: "seeds", "residuals", or "nothing"
    samples: Floats  # (samples, 3): floor, factor, exponent
    points: int
    largest: float  # x that was measured

    def interval(self, x: float) -> tuple[float, float] | None:
        """Return what the law's loss at x lies between with 95 % confidence; None where nothing tells."""
        if not len(self.samples):
            return None
        low, high = self.band(np.array([x]))
        return float(low[0]), float(high[0])

    def band(self, x: Floats) -> Floats:
        """Return (2, len(x)): the ends of the interval at each x."""
        floor, factor, exponent = (constant[:, None] for constant in self.samples.T)
        return np.quantile(floor + factor * x**-exponent, INTERVAL, axis=0)

    def facts(self) -> Facts:
        """Return the constants with their 95 % intervals, and from what they were found."""
        constants = self.law._asdict()
        ends = np.quantile(self.samples, INTERVAL, axis=0).T.tolist() if len(self.samples) else [None] * 3
        intervals = dict(zip(constants, ends, strict=True))
        said = {
            name: f"{value:.4g}" + (f" [{ends[0]:.4g}, {ends[1]:.4g}]" if (ends := intervals[name]) else "")
            for name, value in constants.items()
        }
        return Facts(
            f"L = {said['floor'] + ' + ' if self.has_floor else ''}{said['factor']} x^-({said['exponent']}), "
            f"{self._origin()}",
            **constants,
            intervals_95_percent=intervals,
            floor_is_fitted=self.has_floor,
            resampled=self.resampled,
            points=self.points,
            largest_x=self.largest,
        )

    def _origin(self) -> str:
        few = "" if self.has_floor else f": too few for a floor, which takes {FEWEST_FOR_FLOOR}, so it is set to 0"
        sure = {
            "seeds": "95 % intervals from the seeds",
            "residuals": "95 % intervals from the residuals",
            "nothing": "no intervals: two points fix two constants; add a size, or seeds",
        }[self.resampled]
        flat = "" if self.law.factor else "; the loss does not fall, so this is no power law"
        return f"{self.points} points{few}; {sure}{flat}"


def fit_power_law(measured: Sequence[Measurement], *, bootstrap: int, seed: int) -> FittedLaw:
    """Fit the law to the mean losses at each x, all alike in weight; neither floor nor factor is below 0.

    Below `FEWEST_FOR_FLOOR` points the floor is 0, a pure power law. Each of `bootstrap` samples has its own law. They
    deviate as seeds do from their means where there are several at every point, and as the means do from the law else.
    Raises EvaluationError below two points.
    """
    if len(measured) < 2:
        raise EvaluationError(f"a power law takes losses at two places or more, and there are {len(measured)}")
    x = np.array([point.x for point in measured])
    means = np.array([point.mean for point in measured])
    seeds = np.array([len(point.losses) for point in measured])
    has_floor = len(measured) >= FEWEST_FOR_FLOOR
    law = PowerLaw(*_search(x, means[None], has_floor)[0].tolist())
    if (seeds > 1).all():
        deviations = np.concatenate([np.array(point.losses) - point.mean for point in measured])
        resampled, centres, fixed = "seeds", means, len(measured)
    else:
        residuals = means - law(x)
        deviations = residuals - residuals.mean()
        resampled, centres, fixed, seeds = "residuals", law(x), 3 if has_floor else 2, np.ones_like(seeds)
    if len(deviations) == fixed:
        return FittedLaw(law, has_floor, "nothing", np.empty((0, 3)), len(measured), float(x.max()))
    noise = _draw_noise(deviations, len(deviations) - fixed, (bootstrap, len(x)), generator(seed, "power law"))
    samples = _search(x, centres + noise / np.sqrt(seeds), has_floor)
    return FittedLaw(law, has_floor, resampled, samples, len(measured), float(x.max()))


def _draw_noise(deviations: Floats, degrees: int, shape: tuple[int, int], numbers: np.random.Generator) -> Floats:
    """Return noise of (samples, points), drawn from deviations that have so many degrees of freedom.

    A fit takes some of the noise away, and few deviations do not tell its size well. So each sample has a size of its
    own, as the variance of normal noise has given its estimate; intervals then widen as those of Student's t do.
    """
    sizes = np.sqrt(len(deviations) / numbers.chisquare(degrees, (shape[0], 1)))
    return numbers.choice(deviations, shape) * sizes


def _search(x: Floats, losses: Floats, has_floor: bool) -> Floats:
    """Return floor, factor and exponent (samples, 3) of least squares for each row of losses (samples, points)."""
    centre = np.exp(np.log(x).mean())  # so that powers are near 1 whatever the exponent
    low, high = (np.full((len(losses), 1), end) for end in EXPONENTS)
    steps = np.linspace(0, 1, GRID)
    for _ in range(ROUNDS):
        exponents = low * (high / low) ** steps
        errors = _fit_lines(x / centre, losses, exponents, has_floor)[2]
        best = errors.argmin(axis=1)[:, None]
        low = np.take_along_axis(exponents, np.maximum(best - 1, 0), axis=1)
        high = np.take_along_axis(exponents, np.minimum(best + 1, GRID - 1), axis=1)
    exponent = np.take_along_axis(exponents, best, axis=1)
    floor, factor, _ = _fit_lines(x / centre, losses, exponent, has_floor)
    return np.concatenate([floor, factor * centre**exponent, exponent], axis=1)


def _fit_lines(x: Floats, losses: Floats, exponents: Floats, has_floor: bool) -> tuple[Floats, Floats, Floats]:
    """Return floor, factor and squared error (samples, exponents) of losses (samples, points) for each exponent."""
    powers = x ** -exponents[..., None]  # (samples, exponents, points)
    targets = losses[:, None]
    through_zero = (powers * targets).sum(-1) / (powers**2).sum(-1)
    floor, factor = np.zeros_like(through_zero), through_zero
    if has_floor:
        deviations = powers - powers.mean(-1, keepdims=True)
        slope = ((deviations * targets).sum(-1) / (deviations**2).sum(-1)).clip(min=0)
        level = targets.mean(-1) - slope * powers.mean(-1)
        floor, factor = np.where(level > 0, level, 0), np.where(level > 0, slope, through_zero)
    return floor, factor, ((floor[..., None] + factor[..., None] * powers - targets) ** 2).sum(-1)

"""Power laws are found again in losses that were made from them, and intervals hold what they promise."""

import json

import numpy as np
import pytest
from scipy.optimize import curve_fit

from elm_dist.analysis.power_law import FittedLaw, Measurement, PowerLaw, fit_power_law
from elm_dist.errors import EvaluationError

TRUE = PowerLaw(floor=0.4, factor=3.0, exponent=0.2)
TRIALS = 40


def measure(law: PowerLaw, points: int, *, seeds: int = 1, noise: float = 0.0, trial: int = 0) -> list[Measurement]:
    """Return losses of a law over three decades, each with noise of its own."""
    numbers = np.random.default_rng(trial)
    x = np.geomspace(1e6, 1e9, points)
    return [
        Measurement(float(place), tuple((law(place) + noise * numbers.standard_normal(seeds)).tolist())) for place in x
    ]


def fit(measured: list[Measurement], seed: int = 0) -> FittedLaw:
    return fit_power_law(measured, bootstrap=300, seed=seed)


@pytest.mark.parametrize(
    ("law", "points"),
    [
        (TRUE, 4),
        (PowerLaw(0.0, 3.0, 0.2), 8),
        (PowerLaw(0.0, 3.0, 0.2), 2),
        (PowerLaw(1.5, 2e6, 0.9), 6),
        (PowerLaw(0.5, 1.2, 0.03), 12),
    ],
)
def test_planted_constants_are_found(law: PowerLaw, points: int) -> None:
    found = fit(measure(law, points))
    assert found.law == pytest.approx(law, rel=1e-3, abs=1e-6)
    assert found.points == points
    assert found.largest == pytest.approx(1e9)
    assert float(found.law(1e10)) == pytest.approx(float(law(1e10)), rel=1e-5)


def test_least_squares_are_those_of_scipy() -> None:
    measured = measure(TRUE, 8, noise=0.004)
    x, y = np.array([point.x for point in measured]) / 1e7, [point.mean for point in measured]
    expected, _ = curve_fit(lambda x, floor, factor, exponent: floor + factor * x**-exponent, x, y, p0=(0.3, 0.1, 0.3))
    law = fit(measured).law
    assert (law.floor, law.factor * 1e7**-law.exponent, law.exponent) == pytest.approx(tuple(expected), rel=1e-4)


@pytest.mark.parametrize(("points", "seeds", "resampled"), [(8, 1, "residuals"), (6, 3, "seeds")])
def test_intervals_cover_what_was_planted(points: int, seeds: int, resampled: str) -> None:
    """Of intervals of 95 %, from so few points, 85 % are to hold; and they are not wide enough to hold anything."""
    covered = np.zeros(4)
    for trial in range(TRIALS):
        found = fit(measure(TRUE, points, seeds=seeds, noise=0.003, trial=trial), trial)
        assert found.resampled == resampled
        intervals = [*found.facts()["intervals_95_percent"].values(), found.interval(1e10)]
        for index, (planted, (low, high)) in enumerate(zip([*TRUE, float(TRUE(1e10))], intervals, strict=True)):
            covered[index] += low <= planted <= high
        low, high = found.interval(1e8) or (0.0, 1.0)
        assert high - low < 8 * 0.003
    assert (covered / TRIALS >= 0.85).all(), covered / TRIALS


def test_more_noise_makes_wider_intervals() -> None:
    narrow, wide = (fit(measure(TRUE, 8, noise=noise)).interval(1e8) for noise in (0.001, 0.01))
    assert narrow is not None
    assert wide is not None
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])


def test_a_band_is_the_interval_at_each_place() -> None:
    found = fit(measure(TRUE, 8, noise=0.003))
    band = found.band(np.array([1e7, 1e8]))
    assert tuple(band[:, 1]) == found.interval(1e8)


def test_too_few_points_for_a_floor_have_none_and_say_so() -> None:
    found = fit(measure(TRUE, 3))
    assert (found.has_floor, found.law.floor) == (False, 0)
    assert str(found.facts()).startswith("L = ")
    assert "3 points: too few for a floor, which takes 4, so it is set to 0" in str(found.facts())
    assert "too few" not in str(fit(measure(TRUE, 4)).facts())


def test_two_points_have_no_interval_and_say_so_but_seeds_give_one() -> None:
    found = fit(measure(TRUE, 2))
    assert found.resampled == "nothing"
    assert found.interval(1e8) is None
    assert "no intervals: two points fix two constants; add a size, or seeds" in str(found.facts())
    assert found.facts()["intervals_95_percent"] == {"floor": None, "factor": None, "exponent": None}
    assert fit(measure(TRUE, 2, seeds=2, noise=0.003)).interval(1e8) is not None


def test_seeds_at_some_points_alone_are_not_enough_to_draw_from() -> None:
    measured = measure(TRUE, 6, seeds=2, noise=0.003)
    measured[2] = Measurement(measured[2].x, measured[2].losses[:1])
    assert fit(measured).resampled == "residuals"


def test_a_loss_that_rises_is_no_power_law() -> None:
    rising = [Measurement(x, (loss,)) for x, loss in ((1e6, 0.5), (1e7, 0.6), (1e8, 0.7), (1e9, 0.8))]
    found = fit(rising)
    assert found.law.factor == 0
    assert found.law.floor == pytest.approx(0.65)
    assert "the loss does not fall, so this is no power law" in str(found.facts())


def test_the_seed_decides_the_intervals() -> None:
    measured = measure(TRUE, 6, noise=0.003)
    np.testing.assert_array_equal(fit(measured, 1).samples, fit(measured, 1).samples)
    assert (fit(measured, 1).samples != fit(measured, 2).samples).any()


def test_facts_are_numbers_for_json_and_a_sentence_for_people() -> None:
    facts = fit(measure(TRUE, 8, noise=0.003)).facts()
    stored = json.loads(json.dumps(facts))
    assert stored["exponent"] == pytest.approx(0.2, rel=0.5)
    low, high = stored["intervals_95_percent"]["exponent"]
    assert f"x^-({stored['exponent']:.4g} [{low:.4g}, {high:.4g}])" in str(facts)


def test_one_point_is_refused() -> None:
    with pytest.raises(EvaluationError, match="takes losses at two places or more, and there are 1"):
        fit(measure(TRUE, 1))

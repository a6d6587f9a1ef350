"""Verdicts on planted numbers."""

import pytest

from elm_dist.study.claims import FINDINGS, Claim, Finding, Verdict, compare, controls_of, judge
from elm_dist.study.results import Result
from elm_dist.study.variants import BASE

NOISE = {"one": 0.1, "two": -0.1, "three": 0.05}  # of the second seed


def planted(measure: str, **means: float) -> list[Result]:
    return [
        Result(measure, name, seed, value + (NOISE[name] if seed else -NOISE[name]))
        for name, value in means.items()
        for seed in (0, 1)
    ]


CONTROLS = [Result("fd", "untrained", 0, 200.0), Result("fd", "vqgan_untrained", 0, 105.0)]


def finding(*claims: Claim) -> Finding:
    return Finding("", "", "", claims)


@pytest.mark.parametrize(
    ("one", "verdict"), [(90.0, "shows"), (110.0, "does not show"), (99.9, "cannot tell at this scale")]
)
def test_a_lower_distance_is_better(one: float, verdict: Verdict) -> None:
    results = CONTROLS + planted("fd", one=one, two=100.0, three=100.0)
    claim = Claim("fd", "one", ("two", "three"))
    assert judge(results, finding(claim)) == verdict
    first = compare(results, [claim])[0]
    assert first.gain.value == pytest.approx(100 - one)
    assert first.gain.low < first.gain.value < first.gain.high


@pytest.mark.parametrize(("one", "verdict"), [(110.0, "shows"), (90.0, "does not show")])
def test_a_higher_signal_to_noise_ratio_is_better(one: float, verdict: Verdict) -> None:
    results = planted("psnr_db", one=one, two=100.0, three=100.0)
    assert judge(results, finding(Claim("psnr_db", "one", ("two",)))) == verdict


def test_one_comparison_that_is_unclear_leaves_a_finding_open() -> None:
    results = CONTROLS + planted("fd", one=90.0, two=100.0, three=90.0)
    assert judge(results, finding(Claim("fd", "one", ("two", "three")))) == "cannot tell at this scale"


def test_one_comparison_that_is_refuted_refutes_a_finding() -> None:
    results = CONTROLS + planted("fd", one=90.0, two=100.0, three=80.0)
    assert judge(results, finding(Claim("fd", "one", ("two", "three")))) == "does not show"


def test_what_stands_beside_a_finding_decides_nothing() -> None:
    results = CONTROLS + planted("fd", one=90.0, two=100.0, three=80.0)
    beside = Finding("", "", "", (Claim("fd", "one", ("two",)),), beside=(Claim("fd", "one", ("three",)),))
    assert judge(results, beside) == "shows"


@pytest.mark.parametrize(
    ("one", "two", "verdict"),
    [(90.0, 100.0, "shows"), (90.0, 110.0, "cannot tell at this scale"), (110.0, 90.0, "cannot tell at this scale")],
)
def test_a_distance_that_prefers_noise_decides_nothing(one: float, two: float, verdict: Verdict) -> None:
    distances = [
        result._replace(variant={"one": BASE, "two": "vqgan"}[result.variant])
        for result in planted("fd", one=one, two=two)
    ]
    assert judge(CONTROLS + distances, finding(Claim("fd", BASE, ("vqgan",)))) == verdict


def test_a_distance_of_one_tokenizers_codes_does_not_depend_on_noise_of_the_other() -> None:
    assert controls_of(BASE, "masked") == {"untrained"}
    assert controls_of("1-12", "vqgan") == {"untrained", "vqgan_untrained"}
    assert controls_of("linear 4", "cos 4") == {"untrained"}


def test_findings_have_titles_of_their_own() -> None:
    assert len({one.title for one in FINDINGS}) == len(FINDINGS)

"""Verdicts on planted numbers."""

import pytest

from elm_dist.study.claims import FINDINGS, Claim, Finding, Verdict, compare, judge, preferred_without_learning
from elm_dist.study.results import Result

NOISE = {"one": 0.1, "two": -0.1, "three": 0.05}  # of the second seed


def planted(measure: str, **means: float) -> list[Result]:
    return [
        Result(measure, name, seed, value + (NOISE[name] if seed else -NOISE[name]))
        for name, value in means.items()
        for seed in (0, 1)
    ]


LEARNED = planted("bits", one=0.5, two=0.5, three=0.5)


def finding(*claims: Claim) -> Finding:
    return Finding("", "", "", claims)


@pytest.mark.parametrize(
    ("one", "verdict"), [(90.0, "shows"), (110.0, "does not show"), (99.9, "cannot tell at this scale")]
)
def test_a_lower_distance_is_better(one: float, verdict: Verdict) -> None:
    results = LEARNED + planted("fd", one=one, two=100.0, three=100.0)
    claim = Claim("fd", "one", ("two", "three"))
    assert judge(results, finding(claim)) == verdict
    first = compare(results, [claim])[0]
    assert first.gain.value == pytest.approx(100 - one)
    assert first.gain.low < first.gain.value < first.gain.high


@pytest.mark.parametrize(("one", "verdict"), [(110.0, "shows"), (90.0, "does not show")])
def test_a_higher_precision_is_better(one: float, verdict: Verdict) -> None:
    results = planted("precision", one=one, two=100.0, three=100.0)
    assert judge(results, finding(Claim("precision", "one", ("two",)))) == verdict


def test_one_comparison_that_is_unclear_leaves_a_finding_open() -> None:
    results = LEARNED + planted("fd", one=90.0, two=100.0, three=90.0)
    assert judge(results, finding(Claim("fd", "one", ("two", "three")))) == "cannot tell at this scale"


def test_one_comparison_that_is_refuted_refutes_a_finding() -> None:
    results = LEARNED + planted("fd", one=90.0, two=100.0, three=80.0)
    assert judge(results, finding(Claim("fd", "one", ("two", "three")))) == "does not show"


def test_what_stands_beside_a_finding_decides_nothing() -> None:
    results = LEARNED + planted("fd", one=90.0, two=100.0, three=80.0)
    beside = Finding("", "", "", (Claim("fd", "one", ("two",)),), beside=(Claim("fd", "one", ("three",)),))
    assert judge(results, beside) == "shows"


def test_a_distance_that_prefers_a_model_that_learned_nothing_decides_nothing() -> None:
    claim = finding(Claim("fd", "one", ("two",)))
    distances = planted("fd", one=90.0, two=100.0, three=80.0)
    idle = planted("bits", one=0.5, two=0.5, three=0.999)
    assert judge(LEARNED + distances, claim) == "shows"
    assert preferred_without_learning(idle + distances) == ["three"]
    assert judge(idle + distances, claim) == "cannot tell at this scale"
    far = planted("fd", one=90.0, two=100.0, three=300.0)
    assert not preferred_without_learning(idle + far)
    assert judge(idle + far, claim) == "shows"


def test_findings_have_titles_of_their_own() -> None:
    assert len({one.title for one in FINDINGS}) == len(FINDINGS)

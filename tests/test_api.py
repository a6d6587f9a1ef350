"""The Python interface computes what the commands compute, and the page that shows it runs as it is written."""

import math
import re
import shlex
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import elm
from PIL import Image
from trained_run import TINY, TRAIN, folders

from elm_dist.analysis.run_loss import evaluate_run
from elm_dist.api import Codes, Images, Run, load_run
from elm_dist.checkpoint.model import load_model
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.config import ImageSize
from elm_dist.data.images import ImageFolder, centre_crop
from elm_dist.data.loader import load_tokens
from elm_dist.errors import CheckpointError, ConfigError, ElmError, ImageError
from elm_dist.sampling.painter import load_painter
from elm_dist.sampling.requests import ImageRequest

PAGE = Path(__file__).parent.parent / "docs" / "api.md"


@pytest.fixture(scope="module")
def run(trained: Path) -> Run:
    return load_run(trained)


@pytest.fixture(scope="module")
def photographs(trained: Path) -> tuple[Images, list[int]]:
    """The validation images of the run, in stored order, and their classes."""
    folder = ImageFolder(trained.parent / "images", "validation", ImageSize(32, 32))
    images, labels = zip(*(folder[index] for index in range(len(folder))), strict=True)
    return np.stack(images), list(labels)


@pytest.fixture(scope="module")
def codes(run: Run, photographs: tuple[Images, list[int]]) -> Codes:
    return run.encode(photographs[0])


def test_samples_are_those_of_the_command(run: Run, trained: Path, tmp_path: Path) -> None:
    command = ["sample", str(trained), "--out", str(tmp_path), "--classes", "1,3", "--per-class", "2", "--seed", "5"]
    assert elm(*command, "sampling.cfg_scale=2.5", "sampling.cfg_interval=[0.1, 0.9]").code == 0
    codes = run.sample([1, 3, 1, 3], seed=5, cfg_scale=2.5, cfg_interval=(0.1, 0.9))
    assert (codes.shape, codes.dtype) == ((4, 4, 4, 2), np.int64)
    images = run.decode(codes)
    assert (images.shape, images.dtype) == ((4, 32, 32, 3), np.uint8)
    for image, request in zip(images, (ImageRequest(c, n) for n in range(2) for c in (1, 3)), strict=True):
        assert np.array_equal(image, Image.open(tmp_path / request.path))


def test_samples_are_those_of_the_painter(run: Run, trained: Path) -> None:
    requests = [ImageRequest(0, 0), ImageRequest(2, 0), ImageRequest(0, 1)]
    drawn = load_painter(trained).draw([0, 2, 0], [request.seed(7) for request in requests])
    assert np.array_equal(run.sample([0, 2, 0], seed=7).reshape(3, 16, 2), drawn.numpy())


def test_settings_and_seeds_make_other_samples(run: Run) -> None:
    plain = run.sample(np.array([0, 2]))
    assert np.array_equal(plain, run.sample([0, 2], seed=0, cfg_scale=run.config.sampling.cfg_scale))
    assert not np.array_equal(plain, run.sample([0, 2], seed=1))
    assert not np.array_equal(plain, run.sample([0, 2], temperature=3.0))


def test_more_images_than_are_computed_at_once(run: Run) -> None:
    codes = run.sample([0, 1] * 17)
    assert np.array_equal(codes[:2], run.sample([0, 1]))
    assert len(np.unique(codes.reshape(34, -1), axis=0)) == 34
    assert np.array_equal(run.decode(codes)[33], run.decode(codes[33:])[0])
    images = run.decode(codes)
    assert np.allclose(run.score(images)[33], run.score(images[33:]), rtol=1e-6)


def test_images_are_encoded_as_training_images_are(run: Run, codes: Codes) -> None:
    assert (codes.shape, codes.dtype) == ((32, 4, 4, 2), np.int64)
    large = np.random.default_rng(0).integers(0, 256, (2, 80, 50, 3), dtype=np.uint8)
    cropped = np.stack([np.asarray(centre_crop(Image.fromarray(image), ImageSize(32, 32))) for image in large])
    assert np.array_equal(run.encode(large), run.encode(cropped))
    assert np.array_equal(run.encode([Image.fromarray(large[0]), cropped[1]]), run.encode(cropped))


def test_scores_are_what_elm_evaluate_means(trained: Path, photographs: tuple[Images, list[int]]) -> None:
    evaluated = evaluate_run(trained, batch_size=16).scores
    for weights in ("ema", "raw"):
        bits = load_run(trained, overrides=[f"sampling.weights={weights}"]).score(*photographs)
        assert (bits.shape, bits.dtype) == ((32,), np.float64)
        assert bits.mean() == pytest.approx(evaluated[f"{weights} validation/bits_per_image"], rel=1e-6)


@pytest.mark.parametrize("scan", ["row_raster", "diagonal_zigzag"])
def test_codes_are_packed_as_training_reads_them(
    trained: Path, photographs: tuple[Images, list[int]], scan: str
) -> None:
    run = load_run(trained, overrides=[f"model.scan={scan}"])
    loader = load_tokens(run.config, global_batch_size=32, micro_batch_size=32, class_dropout=0, verify=True)
    read = loader.validation_micro_batch(0, 0)
    packed = run.pack(run.encode(photographs[0]))
    assert sorted(zip(packed.tolist(), photographs[1], strict=True)) == sorted(
        zip(read.codes.tolist(), read.labels.tolist(), strict=True)
    )


@pytest.mark.parametrize("is_conditional", [True, False])
def test_the_score_of_an_image_is_its_cross_entropy(
    run: Run, photographs: tuple[Images, list[int]], codes: Codes, is_conditional: bool
) -> None:
    images, labels = photographs
    classes = labels if is_conditional else None
    with torch.no_grad():
        logits = run.model((run.pack(codes), torch.tensor(classes or [run.config.model.num_classes] * len(images))))
    targets = torch.from_numpy(codes).flatten(1, 2)
    bits = F.cross_entropy(logits.permute(0, 3, 1, 2).double(), targets, reduction="none").sum(dim=(1, 2)) / math.log(2)
    assert np.allclose(run.score(images, classes), bits, rtol=1e-6)


def test_a_masked_model_draws_and_has_no_score(trained: Path, tmp_path: Path) -> None:
    overrides = ["model.modelling=masked", "schedule.total_steps=1", "schedule.warmup_steps=0"]
    overrides += ["monitoring.sample_every=0", "monitoring.validation_every=0"]
    command = [sys.executable, str(TRAIN), "--config", str(TINY), *folders(trained.parent, tmp_path / "run")]
    subprocess.run([*command, *overrides], check=True, capture_output=True)
    masked = load_run(tmp_path / "run")
    images = masked.decode(masked.sample([0, 3], iterations=4))
    assert images.shape == (2, 32, 32, 3)
    message = (
        rf"^{tmp_path}/run: a masked model gives codes no order and so images no score; score with a run of "
        "model.modelling=autoregressive$"
    )
    with pytest.raises(ConfigError, match=message):
        masked.score(images)


def test_step_overrides_and_preset(run: Run, trained: Path) -> None:
    early = load_run(str(trained), step=3, preset="elm_l_2-8", overrides=["sampling.weights=raw"])
    assert (run.step, early.step) == (6, 3)
    assert (early.config.sampling.cfg_scale, early.config.sampling.weights) == (4.0, "raw")
    expected = load_model(Checkpoint(trained / "checkpoints" / "step_00000003"), run.config, "raw").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in early.model.state_dict().items())


def test_a_run_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"^{tmp_path} is not a run: it has no config.yaml"):
        load_run(tmp_path)


def test_a_checkpoint_that_has_gone(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    shutil.copy(trained / "config.yaml", tmp_path)
    run = load_run(tmp_path, step=3)
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000003")
    with pytest.raises(CheckpointError, match=r"has no checkpoint of step 3; it has those of steps 6"):
        _ = run.model


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cfg_scal": 2}, r"sampling.cfg_scal: unknown key; did you mean cfg_scale\? allowed: cfg_scale, cfg_sche"),
        ({"top_k": -1}, "sampling.top_k: -1 is not allowed; give at least 0$"),
        (
            {"precision": "bf16"},
            r"^sampling.precision: this run was loaded with fp32; load it with "
            r"load_run\(\.\.\., overrides=\['sampling.precision=bf16'\]\)$",
        ),
    ],
)
def test_settings_that_are_refused(run: Run, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run.sample([0], **settings)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], r"^classes: none is given; give one or more class numbers, as in \[3, 5\]$"),
        ([1, 4], "^classes: there is no class 4; this run has classes 0 to 3$"),
    ],
)
def test_classes_that_are_refused(run: Run, classes: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run.sample(classes)
    with pytest.raises(ConfigError, match=message):
        run.score(np.zeros((2, 32, 32, 3), np.uint8), classes)


def test_one_class_for_each_image(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"^classes: there are 3 for 2 images; give one for each image$"):
        run.score(np.zeros((2, 32, 32, 3), np.uint8), [0, 1, 2])


@pytest.mark.parametrize(
    ("codes", "found"),
    [
        (np.zeros((2, 4, 4), np.int64), r"int64 \(2, 4, 4\)"),
        (np.zeros((2, 4, 4, 2)), r"float64 \(2, 4, 4, 2\)"),
        (np.zeros((0, 4, 4, 2), np.uint8), r"uint8 \(0, 4, 4, 2\)"),
    ],
)
def test_codes_of_another_form_are_refused(run: Run, codes: Codes, found: str) -> None:
    for use in (run.decode, run.pack):
        with pytest.raises(ElmError, match=rf"^codes: {found} is not allowed; give whole numbers \(n, 4, 4, 2\)$"):
            use(codes)


@pytest.mark.parametrize("value", [-1, 16])
def test_codes_beyond_the_vocabulary_are_refused(run: Run, value: int) -> None:
    codes = np.full((1, 4, 4, 2), value)
    with pytest.raises(ElmError, match=rf"^codes: {value} to {value} are not allowed; those of this run are 0 to 15$"):
        run.decode(codes)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((32, 32, 3), np.uint8), r"uint8 \(32, 3\) is no image; give each as uint8 \(height, width, 3\), RGB"),
        (np.zeros((1, 32, 32, 3)), r"float64 \(32, 32, 3\) is no image"),
        (np.zeros((1, 3, 32, 32), np.uint8), r"uint8 \(3, 32, 32\) is no image"),
        ([Image.new("L", (32, 32))], r"uint8 \(32, 32\) is no image"),
        ([], "none is given; give one or more$"),
    ],
)
def test_images_that_are_none_are_refused(run: Run, images: Images, message: str) -> None:
    for use in (run.encode, run.score):
        with pytest.raises(ImageError, match=f"^images: {message}"):
            use(images)


def test_programs_are_checked_against_its_types() -> None:
    assert files("elm_dist").joinpath("py.typed").is_file()  # PEP 561


def test_the_page_runs_as_it_is_written(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "python", "python", "bash", "python"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for language, lines in blocks:
        if language == "bash":
            assert elm(*shlex.split(lines)[1:]).code == 0
        else:  # the run of the tests has four classes and ends earlier
            exec(lines.replace("[3, 5]", "[1, 3]").replace("step=600", "step=6").replace("top_k=100", "top_k=9"), names)
    assert (tmp_path / "sample.png").stat().st_size > 0
    assert names["bits"].shape == (2,)
    assert names["many"].shape == (40, 4, 4, 2)
    assert names["logits"].shape == (2, 16, 2, 16)

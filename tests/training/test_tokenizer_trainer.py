"""The tokenizer's training on real tiles: it learns, resumes bit for bit, finishes once, and explains its refusals."""

import json
import logging
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage import data
from torch import Tensor

from elm_dist.checkpoint.tokenizer import load_tokenizer
from elm_dist.codes.packing import unpack_subtokens
from elm_dist.config import Config, ImageSize, TokenizerConfig
from elm_dist.config_file import load_config
from elm_dist.errors import ImageError, LayoutError, TokenizerError, TrainingError
from elm_dist.parallel.replicas import Replicas
from elm_dist.tokenizers.bae import BAE
from elm_dist.training import tokenizer_trainer
from elm_dist.training.tokenizer_images import load_batches
from elm_dist.training.tokenizer_state import TokenizerState
from elm_dist.training.tokenizer_trainer import train_tokenizer


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image folder of 48 + 12 disjoint tiles of 32 pixels, three photographs as three classes."""
    root = tmp_path_factory.mktemp("images")
    for name, photograph in (("cat", data.chelsea()), ("coffee", data.coffee()), ("woman", data.astronaut())):
        tiles = photograph[:128, :160].reshape(4, 32, 5, 32, 3).swapaxes(1, 2).reshape(20, 32, 32, 3)
        for number, tile in enumerate(tiles):
            directory = root / ("train" if number < 16 else "validation") / name
            directory.mkdir(parents=True, exist_ok=True)
            Image.fromarray(tile).save(directory / f"{number:02d}.png")
    return root


def build_config(directory: Path, images: Path, *overrides: str) -> Config:
    """Return a tiny run: 10 steps of 20 of the 48 images, so that epochs end inside batches."""
    settings = [
        f"run.directory={directory}",
        f"tokenizer.directory={directory / 'tokenizer'}",
        f"tokenizer_training.images={images}",
        "tokenizer.base_channels=32",
        "tokenizer.embedding_channels=32",
        "tokenizer_training.total_steps=10",
        "tokenizer_training.batch_size=20",
        "tokenizer_training.learning_rate=3e-3",
        "tokenizer_training.warmup_steps=2",
        "tokenizer_training.ema_decay=0.5",
        "tokenizer_training.log_every=2",
        "tokenizer_training.checkpoint_every=4",
        "parallel.device=cpu",
        "monitoring.tensorboard=false",
    ]
    return load_config("configs/demo.yaml", [*settings, *overrides])


def train_until(config: Config, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and die as a killed process would at the start of update `step`."""
    update = tokenizer_trainer.update

    def update_or_die(state: TokenizerState, images: Tensor, config: Config, replicas: Replicas) -> dict[str, float]:
        if state.step == step:
            raise KeyboardInterrupt
        return update(state, images, config, replicas)

    with monkeypatch.context() as patch:
        patch.setattr(tokenizer_trainer, "update", update_or_die)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(config)


def read_scores(config: Config) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((config.tokenizer.directory / "report.json").read_text())
    return {key: value for key, value in report.items() if key != "seconds"}


def weights(config: Config) -> dict[str, Tensor]:
    return load_file(config.tokenizer.directory / "model.safetensors")


def test_it_learns_and_reports(tmp_path: Path, images: Path) -> None:
    config = build_config(tmp_path, images, "tokenizer_training.total_steps=40", "monitoring.tensorboard=true")
    train_tokenizer(config)
    directory = config.tokenizer.directory
    report = json.loads((directory / "report.json").read_text())
    assert report["steps"] == 40
    assert report["seconds"] > 0
    assert (report["split"], report["images"]) == ("validation", 12)
    assert report["mean_image_ratio"] > 1.1  # it knows more than the average of the images
    assert report["psnr_db"] > 11
    assert not load_tokenizer(directory, "cpu").training
    written = sorted(path.name for path in directory.iterdir())
    assert written == ["config.json", "model.safetensors", "report.json", "tensorboard"]


def test_a_vqgan_learns_and_its_codebook_comes_into_use(tmp_path: Path, images: Path) -> None:
    settings = ["tokenizer_training.total_steps=40", "tokenizer_training.learning_rate=1e-3"]
    config = build_config(tmp_path, images, *VQGAN, *settings)
    train_tokenizer(config)
    report = json.loads((config.tokenizer.directory / "report.json").read_text())
    assert report["mean_image_ratio"] > 1.1
    vqgan = load_tokenizer(config.tokenizer.directory, "cpu")
    tiles = torch.cat([images for images in islice(load_batches(config, 0, torch.device("cpu"), Replicas()), 3)])
    used = unpack_subtokens(vqgan.image_codes(tiles), vqgan.code_shape).unique()
    assert len(used) > 180  # 140 without revival
    assert used.max() < 200


def test_scalars_and_pictures_reach_tensorboard(tmp_path: Path, images: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = build_config(tmp_path, images, "monitoring.tensorboard=true", "tokenizer_training.total_steps=4")
    train_tokenizer(config)
    events = EventAccumulator(str(config.tokenizer.directory / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4]
    assert [event.step for event in events.Scalars("train/l1")] == [2, 4]
    assert events.Scalars("optimizer/learning_rate")[0].value == pytest.approx(3e-3)
    assert events.Scalars("speed/images_per_second")[0].value > 0
    assert events.Scalars("validation/psnr_db")[-1].step == 4
    picture = events.Images("samples/reconstructions")[-1]
    assert (picture.width, picture.height) == (8 * 32, 2 * 32)


VQGAN = [
    "tokenizer.kind=vqgan",
    "tokenizer.code_bits=8",
    "tokenizer.codebook_size=200",
    "model.subtokens=1",
    "tokenizer_training.revive_after=3",
]
ADVERSARIAL = [  # from the second checkpoint on
    "tokenizer_training.adversarial_weight=1",
    "tokenizer_training.adversarial_from=5",
    "tokenizer_training.diff_augment=true",
]
KINDS = {
    "bernoulli": ["tokenizer.quantization=bernoulli"],
    "deterministic": ["tokenizer.quantization=deterministic"],
    "vqgan": VQGAN,
    "adversarial": ADVERSARIAL,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_resumes_bit_for_bit(
    tmp_path: Path,
    images: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    straight = build_config(tmp_path / "straight", images, *KINDS[kind])
    train_tokenizer(straight)
    killed = build_config(tmp_path / "killed", images, *KINDS[kind])
    train_until(killed, 6, monkeypatch)  # two updates after the checkpoint of step 4
    train_until(killed, 9, monkeypatch)  # one after that of step 8
    saved = sorted(path.name for path in (killed.tokenizer.directory / "training").iterdir())
    assert saved == ["state.json", "step_00000008.safetensors"]
    with caplog.at_level(logging.INFO):
        train_tokenizer(killed)
    assert "resuming at step 8" in caplog.text
    expected = weights(straight)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(killed).items())
    assert read_scores(killed) == read_scores(straight)
    assert not (killed.tokenizer.directory / "training").exists()


def test_neither_workers_nor_the_global_generator_change_the_result(tmp_path: Path, images: Path) -> None:
    plain = build_config(tmp_path / "plain", images, "tokenizer_training.total_steps=4")
    torch.manual_seed(1)
    train_tokenizer(plain)
    others = build_config(
        tmp_path / "others", images, "tokenizer_training.total_steps=4", "tokenizer_training.loader_workers=2"
    )
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    train_tokenizer(others)
    expected = weights(plain)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(others).items())
    reseeded = build_config(tmp_path / "reseeded", images, "tokenizer_training.total_steps=4", "run.seed=1")
    torch.random.set_rng_state(before)
    train_tokenizer(reseeded)
    assert not torch.equal(weights(reseeded)["project.weight"], expected["project.weight"])


def test_a_finished_tokenizer_is_reused(tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = build_config(tmp_path, images, "tokenizer_training.total_steps=2")
    train_tokenizer(config)
    before = (config.tokenizer.directory / "model.safetensors").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        train_tokenizer(config)
    assert "the tokenizer is trained already and is reused; delete the folder to train it anew" in caplog.text
    assert (config.tokenizer.directory / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(TokenizerError, match="embedding_channels is 32 there and 64 here"):
        train_tokenizer(build_config(tmp_path, images, "tokenizer.embedding_channels=64"))


def test_without_validation_images_the_report_says_so(tmp_path: Path, images: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "train").symlink_to(images / "train")
    config = build_config(tmp_path, tmp_path / "images", "tokenizer_training.total_steps=2")
    train_tokenizer(config)
    report = json.loads((config.tokenizer.directory / "report.json").read_text())
    assert (report["split"], report["images"]) == ("train", 48)


def test_progress_is_logged(tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        train_tokenizer(build_config(tmp_path, images, "tokenizer_training.total_steps=4"))
    reports = [line for line in caplog.messages if "| loss 0." in line]
    assert [line.split()[1] for line in reports] == ["2/4", "4/4"]
    assert all("img/s" in line and "| eta 0h 00m" in line for line in reports)
    assert sum("dB PSNR on 12 validation images" in line for line in caplog.messages) == 2  # last checkpoint, report


def test_every_epoch_has_each_image_once_in_another_order(images: Path) -> None:
    from elm_dist.data.images import ImageFolder
    from elm_dist.training.tokenizer_images import StepImages

    folder = ImageFolder(images, "train", ImageSize(32, 32))
    steps = StepImages(folder, batch_size=20, share=range(20), seed=0)
    drawn = np.concatenate([steps[step] for step in range(12)])  # 240 images: 5 epochs of 48
    known = {folder[index][0].tobytes(): index for index in range(48)}
    mirrored = {folder[index][0][:, ::-1].tobytes(): index for index in range(48)}
    order = [known.get(image.tobytes(), mirrored.get(image.tobytes())) for image in drawn]
    epochs = [order[first : first + 48] for first in range(0, 240, 48)]
    assert all(sorted(epoch) == list(range(48)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    flips = sum(image.tobytes() in mirrored for image in drawn)
    assert 90 < flips < 150  # half of 240, within 4 standard deviations
    assert np.array_equal(steps[5], StepImages(folder, batch_size=20, share=range(20), seed=0)[5])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_ends_the_training_in_one_sentence(tmp_path: Path, images: Path, workers: int) -> None:
    for split in ("train", "validation"):
        (tmp_path / split / "cat").mkdir(parents=True)
        for path in (images / split / "cat").iterdir():
            (tmp_path / split / "cat" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "train" / "cat" / "03.png").write_bytes(b"not an image")
    config = build_config(tmp_path, tmp_path, f"tokenizer_training.loader_workers={workers}")
    with pytest.raises(ImageError, match=r"^\S+cat/03\.png: this image cannot be read"):
        train_tokenizer(config)


def test_a_loss_that_is_not_finite(tmp_path: Path, images: Path) -> None:
    message = (
        r"step 1: the tokenizer's loss is no longer finite; lower tokenizer_training\.learning_rate, now 1e\+30, and "
        "run again to go on from the last checkpoint"
    )
    with pytest.raises(TrainingError, match=message):
        train_tokenizer(build_config(tmp_path, images, "tokenizer_training.learning_rate=1.0e+30"))


def damage_state(directory: Path, how: str) -> None:
    state = directory / "state.json"
    facts: dict[str, Any] = json.loads(state.read_text())
    if how == "torn json":
        state.write_text(state.read_text()[:20])
    elif how == "no step":
        del facts["step"]
        state.write_text(json.dumps(facts))
    elif how == "no tensors":
        (directory / facts["tensors"]).unlink()
    else:
        tensors = directory / facts["tensors"]
        tensors.write_bytes(tensors.read_bytes()[:1000])


@pytest.mark.parametrize("how", ["torn json", "no step", "no tensors", "torn tensors"])
def test_a_damaged_checkpoint(tmp_path: Path, images: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build_config(tmp_path, images)
    train_until(config, 5, monkeypatch)
    damage_state(config.tokenizer.directory / "training", how)
    message = (
        r"training: the training cannot be resumed, a file is missing or damaged \(.*\); delete this folder to begin"
    )
    with pytest.raises(TokenizerError, match=message):
        train_tokenizer(config)


def test_a_checkpoint_of_another_tokenizer(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_until(build_config(tmp_path, images), 5, monkeypatch)
    message = "the training to resume is of another tokenizer: res_blocks is 1 there and 2 here; change the section"
    with pytest.raises(TokenizerError, match=message):
        train_tokenizer(build_config(tmp_path, images, "tokenizer.res_blocks=2"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that the message misses")
def test_a_gpu_that_is_not_there(tmp_path: Path, images: Path) -> None:
    with pytest.raises(LayoutError, match=r"parallel\.device=cuda, but torch sees no GPU here; set"):
        train_tokenizer(build_config(tmp_path, images, "parallel.device=cuda"))


def test_a_run_killed_while_it_is_measured_needs_no_update(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config(tmp_path, images, "tokenizer_training.total_steps=3")

    def die(directory: Path, bae: BAE, config: TokenizerConfig) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tokenizer_trainer, "save_tokenizer", die)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(config)
    scores = read_scores(config)
    train_tokenizer(config)
    assert read_scores(config) == scores
    assert load_tokenizer(config.tokenizer.directory, "cpu").config == config.tokenizer


def test_bf16_computes_on_fp32_weights(tmp_path: Path, images: Path) -> None:
    fp32 = build_config(tmp_path / "fp32", images, "tokenizer_training.total_steps=2")
    bf16 = build_config(tmp_path / "bf16", images, "tokenizer_training.total_steps=2", "parallel.precision=bf16")
    train_tokenizer(fp32)
    train_tokenizer(bf16)
    expected, found = weights(fp32)["project.weight"], weights(bf16)["project.weight"]
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)  # a weight moves by 0.0045 at most

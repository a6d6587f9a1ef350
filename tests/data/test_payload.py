"""Shards of probabilities: a fresh draw for each sample and epoch, and the same one whoever reads it, and when."""

from pathlib import Path

import numpy as np
import pytest
import torch
from encoding import SIZE, build_tokenizer, encode
from numpy.typing import NDArray

from elm_dist.config import TokenizerConfig
from elm_dist.data.images import ImageFolder
from elm_dist.data.inspect import inspect_shards
from elm_dist.data.loader import TokenLoader, stored_indices
from elm_dist.data.marginals import marginal_bits_per_code_bit
from elm_dist.data.shards import Manifest, ShardReader, load_manifest
from elm_dist.data.writer import ShardWriter
from elm_dist.errors import ShardError, TokenizerError
from elm_dist.tokenizers.bae import BAE
from elm_dist.tokenizers.vqgan import VQGAN

SAMPLES = 40
PROBABILITIES = np.random.default_rng(0).integers(0, 256, (SAMPLES, 64)).astype(np.uint8)
PROBABILITIES[:, :2] = 0, 255


@pytest.fixture
def shards(tmp_path: Path, manifest: Manifest) -> Path:
    writer = ShardWriter(tmp_path / "shards", manifest.model_copy(update={"payload": "probabilities"}))
    files = {split: [f"{split}-000000.tar"] for split in ("train", "validation")}
    for split in files:
        writer.write(files[split][0], PROBABILITIES, np.zeros(SAMPLES, np.uint16))
    writer.finish(files)
    return tmp_path / "shards"


def load(shards: Path, position: int, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return the packed codes of so many positions."""
    loader = TokenLoader(
        shards, seed=seed, global_batch_size=count, micro_batch_size=count, class_dropout=0.1, null_class=3
    )
    return loader.micro_batch(position).codes.numpy()


def bits(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.unpackbits(codes, axis=1)


def test_bits_are_drawn_with_their_probability(shards: Path) -> None:
    epochs = 2000
    order = stored_indices(0, SAMPLES, 0, epochs * SAMPLES)
    shares = bits(load(shards, 0, epochs * SAMPLES))[np.argsort(order, kind="stable")].reshape(SAMPLES, epochs, 64)
    p = PROBABILITIES / 255
    deviations = (shares.mean(axis=1) - p) / np.sqrt(np.maximum(p * (1 - p), 1e-9) / epochs)
    assert (shares[:, :, 0] == 0).all()
    assert (shares[:, :, 1] == 1).all()
    assert np.abs(deviations[:, 2:]).max() < 5
    assert deviations[:, 2:].std() == pytest.approx(1, abs=0.1)


def test_neighbouring_bits_and_epochs_are_independent(shards: Path) -> None:
    epochs = 2000
    order = stored_indices(0, SAMPLES, 0, epochs * SAMPLES)
    draws = bits(load(shards, 0, epochs * SAMPLES))[np.argsort(order, kind="stable")].reshape(SAMPLES, epochs, 64)
    noise = draws[:, :, 2:] - PROBABILITIES[:, None, 2:] / 255
    for first, second in ((noise[:, 1:], noise[:, :-1]), (noise[..., 1:], noise[..., :-1]), (noise[1:], noise[:-1])):
        assert abs((first * second).mean()) < 0.001  # of 5 million products of 1/6 or less: five standard errors


def test_a_draw_is_a_function_of_seed_and_position_alone(shards: Path) -> None:
    whole = load(shards, 0, 3 * SAMPLES)
    for position, count in ((0, 1), (7, 20), (35, 10), (80, 40)):  # as after a resume, with other micro-batches
        np.testing.assert_array_equal(load(shards, position, count), whole[position : position + count])
    assert (load(shards, 0, 3 * SAMPLES, seed=1) != whole).any()


def test_each_epoch_draws_anew(shards: Path) -> None:
    epochs = [
        load(shards, epoch * SAMPLES, SAMPLES)[np.argsort(stored_indices(0, SAMPLES, epoch * SAMPLES, SAMPLES))]
        for epoch in (0, 1)
    ]
    assert 0.2 < (bits(epochs[0]) != bits(epochs[1])).mean() < 0.45  # a third, for probabilities spread evenly


def test_validation_takes_the_likelier_bit(shards: Path) -> None:
    loader = TokenLoader(shards, seed=0, global_batch_size=8, micro_batch_size=8, class_dropout=0.1, null_class=3)
    codes = loader.validation_micro_batch(0, 1).codes.numpy()
    np.testing.assert_array_equal(bits(codes), PROBABILITIES[8:16] > 127)


def test_frequencies_are_the_mean_probabilities(shards: Path) -> None:
    report = inspect_shards(shards)
    np.testing.assert_allclose(report.bit_frequencies.ravel(), PROBABILITIES.mean(axis=0) / 255)
    assert "64 bytes of probabilities a sample" in str(report)
    assert marginal_bits_per_code_bit(shards).train < 1


def test_images_become_probabilities(tmp_path: Path, images: Path, tokenizer: BAE) -> None:
    made = encode(images, tmp_path / "soft", tokenizer, payload="probabilities")
    assert load_manifest(tmp_path / "soft").payload == "probabilities"
    assert (made.sample_bytes, made.packed_bytes) == (1024, 128)
    soft, labels = ShardReader(tmp_path / "soft", made, "train").read(np.arange(72))
    hard_made = encode(images, tmp_path / "hard", tokenizer)
    hard, hard_labels = ShardReader(tmp_path / "hard", hard_made, "train").read(np.arange(72))
    assert labels.tolist() == hard_labels.tolist()
    undecided = (soft == 127) | (soft == 128)
    np.testing.assert_array_equal((bits(hard) == 1) | undecided, (soft > 127) | undecided)
    folder = ImageFolder(images, "validation", SIZE)
    one, _ = ShardReader(tmp_path / "soft", made, "validation").read(np.arange(12))
    pixels = torch.from_numpy(np.stack([folder[i][0] for i in range(12)])).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = tokenizer.encode(pixels).permute(0, 2, 3, 1).reshape(12, 1024) * 255  # positions first, then bits
    distances = np.abs(one[:, None].astype(float) - expected.numpy()[None]).max(axis=2)
    assert (distances.min(axis=1) < 0.51).all()
    assert sorted(distances.argmin(axis=1)) == list(range(12))


def test_a_vqgan_has_no_probabilities(tmp_path: Path, images: Path) -> None:
    config = build_tokenizer().config.model_dump() | {"kind": "vqgan", "codebook_size": 65536}
    with pytest.raises(TokenizerError, match="--payload probabilities: this tokenizer has none, it is no BAE; use"):
        encode(images, tmp_path / "out", VQGAN(TokenizerConfig(**config)), payload="probabilities")


def test_the_payloads_are_not_mixed(shards: Path, manifest: Manifest) -> None:
    with pytest.raises(ShardError, match="payload is 'probabilities', not 'bits'"):
        ShardWriter(shards, manifest)

"""`elm inspect` on shards of real images, whole and broken, and with their tokenizer or another one."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import elm, refused
from PIL import Image
from trained_run import TINY, tokenize_tiles

from elm_dist.checkpoint.tokenizer import load_tokenizer, save_tokenizer
from elm_dist.config import ImageSize
from elm_dist.config_file import load_config
from elm_dist.data.images import ImageFolder
from elm_dist.data.inspect import inspect_shards
from elm_dist.data.shards import ShardReader, load_manifest
from elm_dist.tokenizers.bae import BAE


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenize_tiles(tmp_path_factory.mktemp("tokenized"))


def test_it_says_what_the_shards_hold(tokenized: Path) -> None:
    result = elm("inspect", str(tokenized / "shards"))
    assert result.code == 0, result
    manifest = load_manifest(tokenized / "shards")
    for part in (
        "4 x 4 codes of 8 bits, 16 bytes of bits a sample, from images of 32 x 32",
        manifest.tokenizer_fingerprint,
        f"{manifest.samples('train')} samples of {manifest.images['train']} images in 1 shards",
        f"{manifest.samples('validation')} samples of",
        "checksums good",
        "4 (astronaut, chelsea, coffee, rocket), 40 to 40 training samples each",
    ):
        assert part in result.stdout, result.stdout


def test_the_figures_are_those_of_the_codes(tokenized: Path) -> None:
    report = inspect_shards(tokenized / "shards")
    reader = ShardReader(tokenized / "shards", report.manifest, "train")
    codes, labels = reader.read(np.arange(len(reader)))
    bits = np.unpackbits(codes, axis=1).reshape(len(codes), 16, 8)
    np.testing.assert_allclose(report.bit_frequencies, bits.mean(axis=0))
    assert report.class_samples.tolist() == np.bincount(labels).tolist()
    shares = " ".join(f"{100 * share:.0f}" for share in bits.mean(axis=(0, 1)))
    assert f"set in {shares} % of all positions" in str(report)
    constant = (bits.min(axis=0) == bits.max(axis=0)).sum()
    assert f"{constant} of 128 never change" in str(report)


def test_many_classes_are_not_all_listed(tokenized: Path) -> None:
    report = inspect_shards(tokenized / "shards")
    many = report.manifest.model_copy(update={"classes": tuple(f"c{i}" for i in range(1000))})
    assert "1,000 (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, ...), " in str(
        type(report)(report.directory, many, report.class_samples, report.bit_frequencies)
    )


def test_the_contact_sheet_shows_the_first_samples(tokenized: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    result = elm("inspect", str(tokenized / "shards"), "--tokenizer", str(tokenized / "tokenizer"), "--out", str(out))
    assert result.code == 0, result
    assert f"picture     {out}" in result.stdout
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (3 * (8 * 34 + 2), 3 * (8 * 34 + 2), 3)  # 64 images of 32 pixels, enlarged threefold
    bae = load_tokenizer(tokenized / "tokenizer", "cpu")
    reader = ShardReader(tokenized / "shards", load_manifest(tokenized / "shards"), "train")
    codes, _ = reader.read(np.array([9]))  # the second of the second row
    decoded = bae.images_from_codes(torch.from_numpy(codes))[0].permute(1, 2, 0).numpy() * 255
    tile = sheet[3 * (2 + 34) : 3 * (2 + 34 + 32) : 3, 3 * (2 + 34) : 3 * (2 + 34 + 32) : 3]
    assert np.abs(tile - decoded).max() <= 1
    assert len(ImageFolder(tokenized / "images", "train", ImageSize(32, 32))) >= 64


def test_a_broken_shard_is_named(tokenized: Path, tmp_path: Path) -> None:
    shards = Path(shutil.copytree(tokenized / "shards", tmp_path / "shards"))
    path = shards / "validation-000000.tar"
    data = bytearray(path.read_bytes())
    data[1700] ^= 1  # within the codes: the layout still holds
    path.write_bytes(data)
    said = refused("inspect", str(shards))
    assert said == f"error: {path}: the checksum is not that of the manifest; run the same `elm tokenize` again, it " \
        "replaces the file\n"  # fmt: skip
    path.unlink()
    assert f"error: {path}: the file is missing" in refused("inspect", str(shards))


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    assert f"error: {tmp_path}: there are no token shards here" in refused("inspect", str(tmp_path))


def test_half_of_a_pair_of_options_is_refused(tokenized: Path) -> None:
    for option in (["--out", "sheet.png"], ["--tokenizer", str(tokenized / "tokenizer")]):
        assert "--tokenizer and --out go together" in refused("inspect", str(tokenized / "shards"), *option)


def test_another_tokenizer_is_refused(tokenized: Path, tmp_path: Path) -> None:
    config = load_config(TINY).tokenizer
    torch.manual_seed(1)
    save_tokenizer(tmp_path / "other", BAE(config), config)
    said = refused(
        "inspect", str(tokenized / "shards"), "--tokenizer", str(tmp_path / "other"), "--out", str(tmp_path / "x.png")
    )
    assert "the shards do not fit this run (tokenizer_fingerprint is" in said
    assert not (tmp_path / "x.png").exists()

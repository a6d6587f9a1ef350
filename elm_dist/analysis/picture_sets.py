"""Sets of pictures to score, a folder or ADM's npz file, read batch by batch in constant memory.

Knows nothing of features and scores.
"""

import json
import math
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from elm_dist.config import ImageSize
from elm_dist.data.images import SUFFIXES, centre_crop, read_image
from elm_dist.errors import EvaluationError

SETTINGS, NPZ = "sampling.json", "samples.npz"  # that `elm sample` writes beside its images
ARRAY, CLASSES = "arr_0.npy", "arr_1"
DECODERS = 8  # threads: Pillow lets go of the interpreter while it decodes
AHEAD = 2  # batches that are decoded while one is measured
FEWEST_IMAGES = 4  # a sphere reaches from one to its third neighbour


class PictureSet(Protocol):
    """Pictures of one size in a fixed order."""

    path: Path
    size: ImageSize

    def __len__(self) -> int: ...

    def batches(self, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        """Yield them as (batch, height, width, 3) RGB; raises an ElmError for one that cannot be read or used."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return where they come from and in which order, as JSON knows it."""
        ...

    def classes(self) -> list[str] | None:
        """Return the name of the class of each, if all are said to be of one."""
        ...


def open_pictures(path: Path, size: ImageSize | None = None) -> PictureSet:
    """Return the pictures of a folder or an npz file; raises EvaluationError for anything else, or fewer than four.

    With `size` they are a reference for samples of that size: in a folder, larger ones are centre-cropped to it as
    training images are. Without, all must be of the size of the first.
    """
    if path.is_dir():
        found: PictureSet = FolderPictures(path, size)
    elif path.suffix == ".npz" and path.is_file():
        found = NpzPictures(path)
    else:
        other = ", or saved statistics (.safetensors)" if size else ""
        raise EvaluationError(
            f"{path}: there are no images here; give a folder of them, or an npz file that has arr_0{other}"
        )
    if len(found) < FEWEST_IMAGES:
        raise EvaluationError(f"{path}: scores need {FEWEST_IMAGES} images or more; there are {len(found)}")
    if size and found.size != size:
        raise EvaluationError(f"{path}: its images are {found.size}, the samples {size} pixels; bring them to one size")
    return found


def read_sampling(path: Path) -> dict[str, Any] | None:
    """Return everything that `elm sample` wrote down of how it drew the images of `path`; None for other images."""
    settings = (path.parent if path.name == NPZ else path) / SETTINGS
    try:
        return json.loads(settings.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise EvaluationError(
            f"{settings}: this file is damaged ({error}); delete it, or draw the images anew"
        ) from None


def class_name(label: int) -> str:
    """Return the name of a class as `elm sample` names its folder."""
    return f"class_{label:04d}"


class FolderPictures:
    """All images in a folder, however deep, ordered by the name of the file, then of its folder.

    In a folder that `elm sample` wrote this is the order of its npz file, where each stretch has all classes alike.
    """

    def __init__(self, path: Path, size: ImageSize | None) -> None:
        self.path = path
        pattern = "class_*/*" if (path / SETTINGS).exists() else "**/*"  # so that its grid.png is no sample
        files = (file for file in path.glob(pattern) if file.suffix.lower() in SUFFIXES)
        shown = (file for file in files if not file.name.startswith("."))
        self._files = sorted(shown, key=lambda file: (file.name, file.parent))
        self._crops = size is not None
        self.size = size or self._first_size()

    def __len__(self) -> int:
        return len(self._files)

    def batches(self, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        waiting: deque[list[Future[NDArray[np.uint8]]]] = deque()
        with ThreadPoolExecutor(DECODERS) as pool:
            for start in range(0, len(self), batch_size):
                waiting.append([pool.submit(self._load, file) for file in self._files[start : start + batch_size]])
                if len(waiting) > AHEAD:
                    yield _stack(waiting.popleft())
            while waiting:
                yield _stack(waiting.popleft())

    def facts(self) -> dict[str, Any]:
        folders = sorted({str(file.parent.relative_to(self.path)) for file in self._files})
        return {"path": str(self.path), "order": "by file name, then folder", "folders": folders}

    def classes(self) -> list[str] | None:
        """Return the name of the folder that each lies in, within this one; None if any lies in none."""
        folders = [str(file.parent.relative_to(self.path)) for file in self._files]
        return None if "." in folders else folders

    def _first_size(self) -> ImageSize:
        if not self._files:
            return ImageSize(0, 0)
        image = read_image(str(self._files[0]), self._files[0])
        return ImageSize(image.height, image.width)

    def _load(self, file: Path) -> NDArray[np.uint8]:
        image = read_image(str(file), file)
        found = ImageSize(image.height, image.width)
        if self._crops and found.height >= self.size.height and found.width >= self.size.width:
            image = centre_crop(image, self.size)
        elif found != self.size:
            raise EvaluationError(f"{file}: this image is {found} pixels, not {self.size}; bring all to one size")
        return np.asarray(image)


class NpzPictures:
    """The array arr_0 (n, height, width, 3), uint8, of an npz file, as ADM's evaluator reads it.

    ADM has the classes beside it, as arr_1 (n,).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _explained(path), zipfile.ZipFile(path) as archive, archive.open(ARRAY) as file:
            shape, is_fortran, dtype = _read_header(file)
        if dtype != np.uint8 or is_fortran or len(shape) != 4 or shape[3] != 3:
            order = " in column order" if is_fortran else ""
            raise EvaluationError(
                f"{path}: arr_0 is {dtype} {shape}{order}, but images are uint8 (n, height, width, 3), 0 to 255; "
                "convert it"
            )
        self._count, self.size = shape[0], ImageSize(*shape[1:3])

    def __len__(self) -> int:
        return self._count

    def batches(self, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        with _explained(self.path), zipfile.ZipFile(self.path) as archive, archive.open(ARRAY) as file:
            _read_header(file)
            for start in range(0, len(self), batch_size):
                shape = (min(batch_size, len(self) - start), *self.size, 3)
                yield np.frombuffer(bytearray(file.read(math.prod(shape))), np.uint8).reshape(shape)

    def facts(self) -> dict[str, Any]:
        return {"path": str(self.path), "order": "as stored"}

    def classes(self) -> list[str] | None:
        with _explained(self.path), np.load(self.path, allow_pickle=False) as arrays:
            if CLASSES not in arrays.files:
                return None
            labels = arrays[CLASSES]
        if labels.shape != (len(self),) or labels.dtype.kind not in "iu" or labels.min() < 0:
            raise EvaluationError(
                f"{self.path}: arr_1 is {labels.dtype} {labels.shape}, but classes are whole numbers from 0 on, one "
                f"for each of the {len(self):,} images; write them so, or leave arr_1 out"
            )
        return [class_name(label) for label in labels.tolist()]

    def stored_statistics(self, dimension: int, spatial_dimension: int) -> dict[str, NDArray[np.float64]] | None:
        """Return `mu`, `sigma`, `mu_s` and `sigma_s`, which ADM's reference files hold as well; None without them."""
        sizes = {"mu": (dimension,), "mu_s": (spatial_dimension,)}
        shapes = sizes | {"sigma": (dimension, dimension), "sigma_s": (spatial_dimension, spatial_dimension)}
        with _explained(self.path), np.load(self.path, allow_pickle=False) as arrays:
            if not shapes.keys() & set(arrays.files):
                return None
            found = {name: np.asarray(arrays[name], np.float64) for name in sorted(shapes)}
        if odd := [name for name, array in found.items() if array.shape != shapes[name]]:
            raise EvaluationError(
                f"{self.path}: {odd[0]} is {found[odd[0]].shape} and should be {shapes[odd[0]]}, as of Inception; "
                "get the file again, or leave mu, sigma, mu_s and sigma_s out of it"
            )
        return found


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what reading an npz file may raise into one sentence."""
    try:
        yield
    except EvaluationError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, ValueError) as error:
        reason = " ".join(str(error).strip("'\"").split())
        raise EvaluationError(
            f"{path}: this is no whole npz file with images as arr_0 ({reason}); get it anew"
        ) from None


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return the shape of the array in a .npy file, whether it lies in column order, and its type."""
    version = npy.read_magic(file)
    return npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)


def _stack(loading: list[Future[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    return np.stack([image.result() for image in loading])

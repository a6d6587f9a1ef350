"""What is made of all the images of a folder, once they are there: a grid to look at, and ADM's file to score.

Reads one image at a time. Needs no torch.
"""

import logging
import time
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elm_dist.config import ImageSize
from elm_dist.files import replacing
from elm_dist.sampling.images import enlarge, image_grid, save_png
from elm_dist.sampling.requests import ImageRequest

log = logging.getLogger(__name__)

GRID = "grid.png"
NPZ = "samples.npz"
GRID_SIDE = 16  # images; more would be a picture that no viewer opens
POLL_SECONDS = 1.0
LOG_SECONDS = 60.0


def wait_for_images(out: Path, requests: list[ImageRequest]) -> None:
    """Wait until the other processes have written their images, too; say now and then how many are missing."""
    logged = time.monotonic()
    missing = requests
    while missing := [request for request in missing if not (out / request.path).exists()]:
        if time.monotonic() - logged > LOG_SECONDS:
            logged = time.monotonic()
            log.info("waiting for %s images of other processes", f"{len(missing):,}")
        time.sleep(POLL_SECONDS)


def write_grid(out: Path, labels: list[int], per_class: int) -> Path:
    """Write a row of images for each class, or a square of one image each; of many, the first. Return the path."""
    if per_class == 1:
        chosen, columns = [ImageRequest(label, 0) for label in labels[: GRID_SIDE**2]], None
    else:
        columns = min(per_class, GRID_SIDE)
        chosen = [ImageRequest(label, index) for label in labels[:GRID_SIDE] for index in range(columns)]
    return _write_grid(out, [request.path for request in chosen], columns)


def write_rows(out: Path, rows: list[list[Path]]) -> Path:
    """Write a grid of images of one size, row by row, each at its path in `out`. Return the path of the grid."""
    return _write_grid(out, [path for row in rows for path in row], len(rows[0]))


def write_npz(out: Path, requests: list[ImageRequest]) -> None:
    """Write arr_0, the images (n, height, width, 3) uint8, and arr_1, their classes (n,) int64, as ADM does."""
    shape = (len(requests), *_read(out / requests[0].path).shape)
    with replacing(out / NPZ) as scratch, zipfile.ZipFile(scratch, "w") as file:
        # ZipInfo has a fixed date: the same images make the same bytes.
        with file.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as array:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(array, header)
            for request in requests:
                array.write(_read(out / request.path).tobytes())
        with file.open(zipfile.ZipInfo("arr_1.npy"), "w") as array:
            labels = np.array([request.label for request in requests], dtype=np.int64)
            np.lib.format.write_array(array, labels, allow_pickle=False)


def _write_grid(out: Path, paths: list[Path], columns: int | None) -> Path:
    images = np.stack([_read(out / path) for path in paths])
    save_png(out / GRID, enlarge(image_grid(images, columns), ImageSize(*images.shape[1:3])))
    return out / GRID


def _read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)

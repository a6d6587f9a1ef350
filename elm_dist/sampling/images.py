"""Images as files: one PNG each, and grids to look at. Needs no torch."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elm_dist.config import ImageSize
from elm_dist.files import replacing


def image_grid(images: NDArray[np.uint8], columns: int | None = None, border: int = 2) -> NDArray[np.uint8]:
    """Lay images (n, height, width, 3) out row by row on white, as one image; `columns` defaults to a square."""
    count, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    shape = (rows * (height + border) + border, columns * (width + border) + border, 3)
    grid = np.full(shape, 255, dtype=np.uint8)
    for index, image in enumerate(images):
        top = border + index // columns * (height + border)
        left = border + index % columns * (width + border)
        grid[top : top + height, left : left + width] = image
    return grid


def enlarge(image: NDArray[np.uint8], image_size: ImageSize) -> NDArray[np.uint8]:
    """Return a grid of small images with each pixel repeated, so that their shorter side is about 100 to the eye."""
    scale = max(1, 96 // min(image_size))
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def save_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image (height, width, 3), and never half of it."""
    with replacing(path) as scratch:
        Image.fromarray(image).save(scratch, format="PNG")

"""Folders of real images for tests: tiles of photographs, one class per photograph."""

from pathlib import Path

import skimage.data
from PIL import Image

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def write_tiles(root: Path, *, train: int, validation: int, size: int = 32, width: int | None = None) -> Path:
    """Write root/train/<photograph>/000.png and root/validation/..., so many tiles of each, and return `root`.

    They are squares of `size` pixels, or `width` wide.
    """
    width = width or size
    for name in PHOTOGRAPHS:
        photograph = getattr(skimage.data, name)()
        columns = photograph.shape[1] // width
        for index in range(train + validation):
            top, left = index // columns * size, index % columns * width
            # Every so many tiles is for validation, so that both splits see the whole photograph.
            held_out = validation and index % ((train + validation) // validation) == 0
            folder = root / ("validation" if held_out else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph[top : top + size, left : left + width]).save(folder / f"{index:03d}.png")
    return root

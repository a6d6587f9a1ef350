"""A folder of images, one folder per class, as arrays and labels. Knows nothing of codes, batches and torch.

    root/train/<class>/*.jpg
    root/validation/<class>/*.jpg        (or root/val/)

Labels count the class folders of `train` in the order of their names.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elm_dist.errors import ImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SPLITS = {"train": ("train",), "validation": ("validation", "val")}


class ImageFolder:
    """The images of one split, centre-cropped to `image_size` pixels per side, in a fixed order.

    `names[label]` is the name of a class. Raises ImageError for folders that do not have the form above.
    """

    def __init__(self, root: Path, split: str, image_size: int) -> None:
        self.image_size = image_size
        self.names = _class_names(_split_directory(root, "train"))
        directory = _split_directory(root, split)
        if (found := _class_names(directory)) != self.names:
            odd = sorted(set(found) ^ set(self.names))[0]
            raise ImageError(
                f"{directory}: the class folders are not those of {root / 'train'} ({odd} is in one of them only); "
                "give both the same class folders"
            )
        self._paths: list[str] = []
        self._labels: list[int] = []
        for label, name in enumerate(self.names):
            paths = _image_paths(directory / name)
            self._paths += paths
            self._labels += [label] * len(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Return the image, (image_size, image_size, 3) RGB, and its label; raises ImageError if it is unreadable."""
        return load_image(Path(self._paths[index]), self.image_size), self._labels[index]


def has_split(root: Path, split: str) -> bool:
    return any((root / name).is_dir() for name in SPLITS[split])


def load_image(path: Path, image_size: int) -> NDArray[np.uint8]:
    """Return the image's centre, (image_size, image_size, 3) RGB; raises ImageError naming the file."""
    try:
        with Image.open(path) as image:
            return np.asarray(centre_crop(image.convert("RGB"), image_size))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # all are Pillow's for bad files
        raise ImageError(f"{path}: this image cannot be read ({error}); replace or remove the file") from None


def centre_crop(image: Image.Image, image_size: int) -> Image.Image:
    """Return the central square of `image`, scaled to `image_size` pixels per side.

    The scores of published models rest on this very recipe (Dhariwal & Nichol 2021, "ADM"): halve by box filters while
    that leaves enough, then scale the short side by a bicubic filter, then crop.
    """
    while min(image.size) >= 2 * image_size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = image_size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return image.crop((left, top, left + image_size, top + image_size))


def _split_directory(root: Path, split: str) -> Path:
    for name in SPLITS[split]:
        if (root / name).is_dir():
            return root / name
    raise ImageError(
        f"{root}: there is no folder {' or '.join(SPLITS[split])} in it; lay the images out as "
        f"{root / SPLITS[split][0]}/<class>/*.jpg, or name another folder"
    )


def _class_names(directory: Path) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ImageError(f"{directory}: there are no class folders in it; put the images into {directory}/<class>/")
    return names


def _image_paths(directory: Path) -> list[str]:
    paths = sorted(entry.path for entry in os.scandir(directory) if entry.name.lower().endswith(SUFFIXES))
    if not paths:
        raise ImageError(
            f"{directory}: the class folder holds no image ({', '.join(SUFFIXES)}); add images or remove the folder"
        )
    return paths

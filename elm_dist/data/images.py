"""A folder of images, one folder per class, as arrays and labels. Knows nothing of codes, batches and torch.

    root/train/<class>/*.jpg
    root/validation/<class>/*.jpg        (or root/val/)

Labels count the class folders of `train` in the order of their names.
"""

import os
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elm_dist.config import ImageSize
from elm_dist.errors import ImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TEN_CROP = 2  # the number of the first of them
TEN_CROP_RANGE = 1.1
VIEWS = {"centre": (0,), "flip": (0, 1), "ten-crop": tuple(range(TEN_CROP, TEN_CROP + 10))}
SPLITS = {"train": ("train",), "validation": ("validation", "val")}


class ImageFolder:
    """The images of one split, centre-cropped to `image_size`, in a fixed order.

    `names[label]` is the name of a class. Raises ImageError for folders that do not have the form above.
    """

    def __init__(self, root: Path, split: str, image_size: ImageSize) -> None:
        self.image_size, self._root = image_size, root
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
        """Return the image, (height, width, 3) RGB, and its label; raises ImageError if it is unreadable."""
        return load_image(Path(self._paths[index]), self.image_size), self._labels[index]

    def name(self, index: int) -> str:
        """Return the path of an image within the root."""
        return os.path.relpath(self._paths[index], self._root)

    def label(self, index: int) -> int:
        return self._labels[index]

    def open(self, index: int) -> Image.Image:
        """Return the whole image, RGB; raises ImageError if it is unreadable."""
        return read_image(self._paths[index], self._paths[index])


def has_split(root: Path, split: str) -> bool:
    return any((root / name).is_dir() for name in SPLITS[split])


def load_image(path: Path, image_size: ImageSize) -> NDArray[np.uint8]:
    """Return the image's centre, (height, width, 3) RGB; raises ImageError naming the file."""
    return np.asarray(centre_crop(read_image(str(path), path), image_size))


def read_image(name: str, source: str | Path | IO[bytes]) -> Image.Image:
    """Return the image in a file, RGB; raises ImageError with its name."""
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # all are Pillow's for bad files
        raise ImageError(f"{name}: this image cannot be read ({error}); replace or remove the file") from None


def centre_crop(image: Image.Image, image_size: ImageSize) -> Image.Image:
    """Return the largest part of `image` about its centre that has the shape of `image_size`, scaled to that size.

    The scores of published models rest on this very recipe (Dhariwal & Nichol 2021, "ADM"), here for any two sides:
    halve by box filters while that leaves enough, then scale by a bicubic filter until one side fits, then crop the
    other.
    """
    height, width = image_size
    while image.height >= 2 * height and image.width >= 2 * width:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(height / image.height, width / image.width)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def crop_view(image: Image.Image, image_size: ImageSize, view: int) -> NDArray[np.uint8]:
    """Return one view of an image, (height, width, 3); `VIEWS` has their numbers.

    0 is the centre, 1 its mirror image. 2 to 11 are the ten crops that LlamaGen trains on: the image is scaled and
    cropped to a tenth more pixels per side; its four corners and its centre are taken, and those of its mirror image.
    """
    if view < TEN_CROP:
        pixels = np.asarray(centre_crop(image, image_size))
        return pixels[:, ::-1] if view == 1 else pixels
    height, width = image_size
    large = ImageSize(int(height * TEN_CROP_RANGE), int(width * TEN_CROP_RANGE))
    pixels, down, right = np.asarray(centre_crop(image, large)), large.height - height, large.width - width
    if view - TEN_CROP >= 5:
        pixels = pixels[:, ::-1]
    corners = (0, 0), (0, right), (down, 0), (down, right)
    top, left = (*corners, (round(down / 2), round(right / 2)))[(view - TEN_CROP) % 5]
    return pixels[top : top + height, left : left + width]


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

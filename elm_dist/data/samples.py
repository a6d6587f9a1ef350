"""Which samples a set of images gives, and in which order they are stored. Knows nothing of codes and shards."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elm_dist.config import ImageSize
from elm_dist.data.image_tars import ImageTars, find_tars
from elm_dist.data.images import VIEWS, ImageFolder, crop_view, has_split
from elm_dist.data.shards import Split, Views
from elm_dist.errors import ImageError
from elm_dist.randomness import generator, uniforms

logger = logging.getLogger(__name__)

HELD_OUT = 0.02  # share of the training images that is the validation split where the folder has none


class ImageSet(Protocol):
    """The images of one split, from wherever they come."""

    image_size: ImageSize
    names: list[str]  # of the classes

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def label(self, index: int) -> int: ...

    def open(self, index: int) -> Image.Image: ...


class LoadedSamples(NamedTuple):
    images: NDArray[np.uint8]  # (readable samples, height, width, 3)
    labels: NDArray[np.uint16]  # (readable samples,)
    broken: set[str]  # names of images that cannot be read


class Samples(NamedTuple):
    """Samples of one split, each a view of an image, in the order in which they are stored."""

    images: ImageSet
    indices: NDArray[np.int64]  # of the images
    views: NDArray[np.int64]  # which view of its image a sample is

    def __len__(self) -> int:
        return len(self.indices)

    def part(self, rows: slice) -> "Samples":
        return Samples(self.images, self.indices[rows], self.views[rows])

    def load(self) -> LoadedSamples:
        """Read the images, and name and log those that cannot be read."""
        size = self.images.image_size
        pixels, labels, broken = [np.empty((0, *size, 3), np.uint8)], [], set()
        for index, view in zip(self.indices.tolist(), self.views.tolist(), strict=True):
            try:
                pixels.append(crop_view(self.images.open(index), size, view)[None])
            except ImageError as error:
                broken.add(self.images.name(index))
                logger.warning("%s; until then it is left out", error)
            else:
                labels.append(self.images.label(index))
        return LoadedSamples(np.concatenate(pixels), np.array(labels, np.uint16), broken)

    def has_readable(self, names: Collection[str]) -> bool:
        """Return whether an image of one of these names, known to be broken once, can be read now."""
        if not names:
            return False
        suspects = [index for index in np.unique(self.indices).tolist() if self.images.name(index) in names]
        return len(suspects) != len(names) or any(self._is_readable(index) for index in suspects)

    def _is_readable(self, index: int) -> bool:
        try:
            self.images.open(index)
        except ImageError:
            return False
        return True


def list_samples(root: Path, image_size: ImageSize, seed: int, *, flip: bool, views: Views) -> dict[Split, Samples]:
    """Return the shuffled samples of both splits; each training image gives one for each of its views.

    With `flip`, that is the centre and its mirror image; with the views "ten-crop", the ten crops of LlamaGen. Raises
    ImageError if `root` is not laid out as it should be.
    """
    if flip and views == "ten-crop":
        raise ImageError("--flip does not go with --views ten-crop, whose crops are mirrored already; leave --flip out")
    train = open_images(root, "train", image_size)
    indices = np.arange(len(train))
    if has_split(root, "validation") or find_tars(root, "validation"):
        validation = open_images(root, "validation", image_size)
        held_out = np.arange(len(validation))
    else:
        validation = train
        by_chance = np.argsort(uniforms(seed, "held out", indices))
        held_out, indices = np.split(by_chance, [max(1, round(HELD_OUT * len(train)))])
        logger.info("%s has no validation images: %s of its training images are held out", root, len(held_out))
    if len(validation.names) > len(train.names):
        raise ImageError(
            f"{root}: there are validation images of class {validation.names[-1]}, but the classes of the training "
            f"images are 0 to {len(train.names) - 1}; give both splits the same classes"
        )
    return {
        "train": _shuffled(train, indices, VIEWS["flip" if flip else views], seed, "train"),
        "validation": _shuffled(validation, held_out, VIEWS["centre"], seed, "validation"),
    }


def open_images(root: Path, split: Split, image_size: ImageSize) -> ImageSet:
    """Return the images of one split from shards, where there are any, or class folders; raises ImageError."""
    if find_tars(root, split):
        return ImageTars(root, split, image_size)
    return ImageFolder(root, split, image_size)


def _shuffled(images: ImageSet, indices: NDArray[np.int64], views: tuple[int, ...], seed: int, split: Split) -> Samples:
    count = len(indices)
    order = generator(seed, "shard order", split).permutation(len(views) * count)
    return Samples(images, indices[order % count], np.array(views)[order // count])

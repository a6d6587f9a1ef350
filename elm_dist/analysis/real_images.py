"""Real images and their classes, read batch by batch as arrays of pixels. Knows nothing of features and scores."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from elm_dist.analysis.picture_sets import DECODERS
from elm_dist.config import ImageSize
from elm_dist.data.images import centre_crop
from elm_dist.data.samples import ImageSet, Samples, list_samples


class LabelledImages(NamedTuple):
    """Images that come in batches, and the class of each."""

    batches: Iterator[NDArray[np.uint8]]  # (batch, height, width, 3)
    labels: NDArray[np.int64]  # of all batches


class RealImages:
    """The images of one split, in an order that has nothing to do with their classes."""

    def __init__(self, samples: Samples) -> None:
        self._images, self._indices = samples.images, samples.indices
        self.names = samples.images.names
        self.labels = np.array([samples.images.label(index) for index in samples.indices.tolist()], np.int64)

    def choose(self, counts: NDArray[np.int64], batch_size: int) -> LabelledImages:
        """Return `counts[label]` images of each class, or all of it if there are fewer."""
        chosen = choose_by_class(self.labels, counts)
        return LabelledImages(read_batches(self._images, self._indices[chosen], batch_size), self.labels[chosen])


def open_real_images(root: Path, image_size: ImageSize) -> tuple[RealImages, RealImages]:
    """Return training and held-out images as `elm tokenize` has them; raises ImageError for other folders.

    Without a validation split that is a share of the training images, and the same with its default seed.
    """
    splits = list_samples(root, image_size, seed=0, flip=False, views="centre")
    return RealImages(splits["train"]), RealImages(splits["validation"])


def read_batches(images: ImageSet, chosen: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the images with the numbers `chosen`, cropped to the size of `images`, as (batch, height, width, 3) RGB.

    Raises ImageError for one that cannot be read.
    """

    def load(index: int) -> NDArray[np.uint8]:
        return np.asarray(centre_crop(images.open(index), images.image_size))

    with ThreadPoolExecutor(DECODERS) as pool:
        for start in range(0, len(chosen), batch_size):
            yield np.stack(list(pool.map(load, chosen[start : start + batch_size].tolist())))


def choose_by_class(labels: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places in `labels`, rising, of the first `counts[label]` of each; of all where there are fewer."""
    by_label = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[by_label], np.arange(len(counts)))
    rank = np.empty_like(by_label)  # how many of the same label come before
    rank[by_label] = np.arange(len(labels)) - first[labels[by_label]]
    return np.flatnonzero(rank < counts[labels])

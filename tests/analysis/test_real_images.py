"""Real images by class: as many of each as are asked for, and the pixels of the right files."""

from pathlib import Path

import numpy as np
import pytest
from photographs import PHOTOGRAPHS, write_tiles

from elm_dist.analysis.real_images import choose_by_class, open_real_images
from elm_dist.config import ImageSize
from elm_dist.data.images import load_image
from elm_dist.errors import ImageError


def test_the_first_of_each_class_are_chosen() -> None:
    labels = np.array([2, 0, 2, 2, 0, 1, 2])
    assert choose_by_class(labels, np.array([1, 3, 2])).tolist() == [0, 1, 2, 5]  # of class 1 there is one only
    assert choose_by_class(labels, np.array([0, 0, 9])).tolist() == [0, 2, 3, 6]
    assert choose_by_class(labels, np.zeros(3, np.int64)).tolist() == []


def test_images_come_with_their_own_classes(tmp_path: Path) -> None:
    write_tiles(tmp_path, train=6, validation=3)
    train, held_out = open_real_images(tmp_path, ImageSize(32, 32))
    assert train.names == held_out.names == list(PHOTOGRAPHS)
    chosen = held_out.choose(np.array([2, 0, 1, 9]), batch_size=4)
    assert np.bincount(chosen.labels).tolist() == [2, 0, 1, 3]
    for image, label in zip(np.concatenate(list(chosen.batches)), chosen.labels, strict=True):
        files = (tmp_path / "validation" / PHOTOGRAPHS[label]).iterdir()
        assert any(np.array_equal(image, load_image(file, ImageSize(32, 32))) for file in files)


def test_without_a_validation_split_some_are_held_out(tmp_path: Path) -> None:
    write_tiles(tmp_path, train=30, validation=0)
    train, held_out = open_real_images(tmp_path, ImageSize(32, 32))
    assert (len(train.labels), len(held_out.labels)) == (118, 2)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no folder train in it"):
        open_real_images(tmp_path, ImageSize(32, 32))

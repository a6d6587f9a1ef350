"""Which samples images give: the ten crops, and every view once."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from encoding import encode
from PIL import Image

from elm_dist.config import ImageSize
from elm_dist.data.images import VIEWS, centre_crop, crop_view
from elm_dist.data.samples import list_samples
from elm_dist.errors import ImageError
from elm_dist.tokenizers.bae import BAE

PHOTOGRAPH = Image.fromarray(skimage.data.chelsea())


def test_the_ten_crops_are_corners_and_centre_of_a_larger_square_and_their_mirror_images() -> None:
    large = np.asarray(centre_crop(PHOTOGRAPH, ImageSize(140, 140)))  # 1.1 x 128 = 140.8
    expected = [
        crop
        for whole in (large, large[:, ::-1])
        for crop in (whole[:128, :128], whole[:128, 12:], whole[12:, :128], whole[12:, 12:], whole[6:134, 6:134])
    ]
    crops = [crop_view(PHOTOGRAPH, ImageSize(128, 128), view) for view in VIEWS["ten-crop"]]
    np.testing.assert_array_equal(crops, expected)


def test_the_ten_crops_have_both_sides() -> None:
    large = np.asarray(centre_crop(PHOTOGRAPH, ImageSize(70, 140)))  # a tenth more than 64 x 128
    crops = [crop_view(PHOTOGRAPH, ImageSize(64, 128), view) for view in VIEWS["ten-crop"]]
    expected = [large[:64, :128], large[:64, 12:], large[6:, :128], large[6:, 12:], large[3:67, 6:134]]
    np.testing.assert_array_equal(crops[:5], expected)
    np.testing.assert_array_equal(crops[5], large[:, ::-1][:64, :128])


def test_centre_and_flip_are_the_centre_crop_and_its_mirror_image() -> None:
    centre = np.asarray(centre_crop(PHOTOGRAPH, ImageSize(128, 128)))
    np.testing.assert_array_equal(
        [crop_view(PHOTOGRAPH, ImageSize(128, 128), view) for view in VIEWS["flip"]], [centre, centre[:, ::-1]]
    )
    assert VIEWS["centre"] == (0,)


@pytest.mark.parametrize(
    ("flip", "views", "count"), [(False, "centre", 1), (True, "centre", 2), (False, "ten-crop", 10)]
)
def test_each_view_of_each_training_image_is_there_once(images: Path, flip: bool, views: str, count: int) -> None:
    samples = list_samples(images, ImageSize(32, 32), 0, flip=flip, views=views)
    train = samples["train"]
    assert len(train) == 72 * count
    pairs = set(zip(train.indices.tolist(), train.views.tolist(), strict=True))
    assert pairs == {(index, view) for index in range(72) for view in VIEWS["flip" if flip else views]}
    assert (len(samples["validation"]), set(samples["validation"].views.tolist())) == (12, {0})
    assert train.indices.tolist() != sorted(train.indices.tolist())


def test_samples_hold_their_view(images: Path) -> None:
    train = list_samples(images, ImageSize(32, 32), 0, flip=False, views="ten-crop")["train"].part(slice(5, 15))
    loaded = train.load()
    for pixels, label, index, view in zip(loaded.images, loaded.labels, train.indices, train.views, strict=True):
        np.testing.assert_array_equal(pixels, crop_view(train.images.open(index), ImageSize(32, 32), view))
        assert label == train.images.label(index)
    assert loaded.broken == set()


def test_ten_crops_become_shards(tmp_path: Path, images: Path, tokenizer: BAE) -> None:
    made = encode(images, tmp_path / "out", tokenizer, views="ten-crop")
    assert (made.views, made.images["train"], made.samples("train"), made.samples("validation")) == (
        *("ten-crop", 72),
        *(720, 12),
    )


def test_ten_crops_are_mirrored_already(images: Path) -> None:
    with pytest.raises(ImageError, match="--flip does not go with --views ten-crop"):
        list_samples(images, ImageSize(32, 32), 0, flip=True, views="ten-crop")

"""The image folder: its classes and order, the crop, and one clear sentence for each way to get it wrong."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from elm_dist.config import ImageSize
from elm_dist.data.images import ImageFolder, centre_crop, has_split, load_image
from elm_dist.errors import ImageError

CAT, COFFEE = data.chelsea()[50:170, 100:250], data.coffee()[:100, :100]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of real photographs: two classes, the cat's one image and two of coffee."""
    for split in ("train", "validation"):
        for path, image in (("cat/0", CAT), ("a_coffee/0", COFFEE), ("a_coffee/1", COFFEE[:, ::-1])):
            (tmp_path / split / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / split / f"{path}.png", compress_level=0)
    return tmp_path


def as_pixels(image: NDArray[np.uint8], height: int, width: int | None = None) -> NDArray[np.uint8]:
    return np.asarray(centre_crop(Image.fromarray(image), ImageSize(height, width or height)))


def test_labels_count_the_classes_by_name(folder: Path) -> None:
    images = ImageFolder(folder, "train", image_size=ImageSize(64, 64))
    assert images.names == ["a_coffee", "cat"]
    assert len(images) == 3
    assert [images[index][1] for index in range(3)] == [0, 0, 1]
    pixels, _ = images[2]
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, as_pixels(CAT, 64))


def test_validation_may_be_called_val(folder: Path) -> None:
    (folder / "validation").rename(folder / "val")
    assert has_split(folder, "validation")
    assert len(ImageFolder(folder, "validation", image_size=ImageSize(32, 32))) == 3


def test_other_files_and_hidden_folders_do_not_count(folder: Path) -> None:
    (folder / "train" / "cat" / "readme.txt").write_text("a cat")
    (folder / "train" / ".thumbnails").mkdir()
    (folder / "train" / "labels.csv").write_text("0,cat")
    assert len(ImageFolder(folder, "train", image_size=ImageSize(32, 32))) == 3


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = data.astronaut()[100:132, 50:82]
    np.testing.assert_array_equal(as_pixels(image, 32), image)


def test_the_crop_is_the_centre() -> None:
    image = data.astronaut()[:64, :100]
    np.testing.assert_array_equal(as_pixels(image, 64), image[:, 18:82])
    np.testing.assert_array_equal(as_pixels(image.transpose(1, 0, 2), 64), image.transpose(1, 0, 2)[18:82])


def test_the_crop_has_the_shape_that_is_asked_for() -> None:
    image = data.astronaut()[:64, :100]
    np.testing.assert_array_equal(as_pixels(image, 64, 80), image[:, 10:90])
    np.testing.assert_array_equal(as_pixels(image, 40, 100), image[12:52])
    # 451 x 300 pixels: twice as wide as high is all the width and 225 of the height, at two thirds of that 150.
    scaled = Image.fromarray(data.chelsea()).resize((300, 200), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(as_pixels(data.chelsea(), 150, 300), np.asarray(scaled)[25:175])


def test_both_sides_must_allow_a_halving() -> None:
    image = Image.fromarray(data.chelsea())  # 451 x 300: halved it would be too low for 200 x 100
    scaled = image.resize((round(451 * 2 / 3), 200), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(as_pixels(data.chelsea(), 200, 100), np.asarray(scaled)[:, 100:200])


def test_large_images_are_halved_by_boxes_first() -> None:
    image = data.astronaut()  # 512 -> 256 -> 128 by means over 2 x 2 pixels, with no bicubic step left to do
    means = image.astype(float)
    for _ in range(2):
        means = means.reshape(means.shape[0] // 2, 2, means.shape[1] // 2, 2, 3).mean(axis=(1, 3))
    assert np.abs(as_pixels(image, 128) - means).max() <= 2  # Pillow rounds after each of the four passes


def test_what_is_left_is_bicubic() -> None:
    image = Image.fromarray(data.chelsea())  # 451 x 300 -> 225 x 150, then its short side -> 100
    halved = image.resize((225, 150), Image.Resampling.BOX)
    scaled = halved.resize((150, 100), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(as_pixels(data.chelsea(), 100), np.asarray(scaled)[:, 25:125])


def test_small_images_are_enlarged() -> None:
    assert as_pixels(data.rocket()[:20, :30], 64).shape == (64, 64, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_all_images_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.fromarray(data.astronaut()).convert(mode).save(tmp_path / "image.png")
    assert load_image(tmp_path / "image.png", ImageSize(64, 64)).shape == (64, 64, 3)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(
        ImageError, match=r"nowhere: there is no folder train in it; lay the images out as .*/train/<cl"
    ):
        ImageFolder(tmp_path / "nowhere", "train", ImageSize(32, 32))


def test_missing_validation(folder: Path) -> None:
    (folder / "validation").rename(folder / "test")
    assert not has_split(folder, "validation")
    with pytest.raises(ImageError, match="there is no folder validation or val in it"):
        ImageFolder(folder, "validation", ImageSize(32, 32))


def test_no_class_folders(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    Image.fromarray(data.astronaut()).save(tmp_path / "train" / "astronaut.png")
    with pytest.raises(ImageError, match=r"train: there are no class folders in it; put the images into .*/train/<cla"):
        ImageFolder(tmp_path, "train", ImageSize(32, 32))


def test_empty_class_folder(folder: Path) -> None:
    (folder / "train" / "dog").mkdir()
    with pytest.raises(
        ImageError, match=r"train/dog: the class folder holds no image \(\.jpg, .*\); add images or remo"
    ):
        ImageFolder(folder, "train", ImageSize(32, 32))


def test_classes_that_differ_between_the_splits(folder: Path) -> None:
    (folder / "validation" / "cat").rename(folder / "validation" / "tiger")
    with pytest.raises(ImageError, match=r"validation: the class folders are not those of .*train \(cat is in one"):
        ImageFolder(folder, "validation", ImageSize(32, 32))


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_an_unreadable_image_is_named(folder: Path, damage: str) -> None:
    path = folder / "train" / "cat" / "0.png"
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"not an image", "empty": b""}[damage])
    images = ImageFolder(folder, "train", ImageSize(32, 32))
    with pytest.raises(ImageError, match=r"cat/0\.png: this image cannot be read \(.*\); replace or remove the file"):
        images[2]

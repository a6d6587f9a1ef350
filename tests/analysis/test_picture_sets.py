"""Sets of pictures from folders and npz files: their order, their sizes, and every file that will not do."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from elm_dist.analysis.picture_sets import NpzPictures, open_pictures, read_sampling
from elm_dist.config import ImageSize
from elm_dist.data.images import centre_crop
from elm_dist.errors import EvaluationError, ImageError
from elm_dist.sampling import settings as sampling_settings
from elm_dist.sampling.collect import NPZ, write_npz
from elm_dist.sampling.requests import list_requests


def images(count: int, height: int = 6, width: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def save(path: Path, image: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def read(path: Path, batch: int = 3, size: ImageSize | None = None) -> NDArray[np.uint8]:
    return np.concatenate(list(open_pictures(path, size).batches(batch)))


def refuse(path: Path, message: str, size: ImageSize | None = None) -> None:
    with pytest.raises(EvaluationError, match=message):
        read(path, size=size)


@pytest.mark.parametrize("batch", [1, 2, 5, 50])
def test_a_tree_is_read_by_name_and_then_by_folder(tmp_path: Path, batch: int) -> None:
    pixels = images(5)
    for path, image in zip(("a/0.png", "b/0.png", "c/d/1.PNG", "a/1.png", "2.png"), pixels, strict=True):
        save(tmp_path / path, image)
    (tmp_path / "a" / "notes.txt").touch()
    save(tmp_path / ".hidden.png", images(1, 9, 9)[0])
    found = open_pictures(tmp_path)
    assert len(found) == 5
    assert found.size == (6, 8)
    np.testing.assert_array_equal(read(tmp_path, batch), pixels)
    facts = {"path": str(tmp_path), "order": "by file name, then folder", "folders": [".", "a", "b", "c/d"]}
    assert found.facts() == facts


def test_what_elm_sample_wrote_is_read_like_its_npz(tmp_path: Path) -> None:
    requests = list_requests([0, 3, 7], 2)
    for request, image in zip(requests, images(6), strict=True):
        save(tmp_path / request.path, image)
    (tmp_path / "sampling.json").write_text(json.dumps({"seed": 1}))
    save(tmp_path / "grid.png", images(1, 50, 50)[0])  # no sample
    write_npz(tmp_path, requests)
    np.testing.assert_array_equal(read(tmp_path), images(6))
    np.testing.assert_array_equal(read(tmp_path / "samples.npz"), images(6))


def test_how_samples_were_drawn_is_read_from_beside_them(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "samples.npz", tmp_path / "absent"):
        assert read_sampling(place) is None
    settings = tmp_path / sampling_settings.SETTINGS
    settings.write_text(json.dumps({"seed": 1}))
    assert read_sampling(tmp_path) == read_sampling(tmp_path / NPZ) == {"seed": 1}
    assert read_sampling(tmp_path / "others.npz") is None
    settings.write_text("{")
    with pytest.raises(EvaluationError, match=r"sampling\.json: this file is damaged \(.*\); delete it, or draw the"):
        read_sampling(tmp_path)


def test_classes_are_told_by_folders_or_by_arr_1(tmp_path: Path) -> None:
    for path, image in zip(("a/0.png", "b/0.png", "a/1.png", "b/1.png"), images(4), strict=True):
        save(tmp_path / "named" / path, image)
    assert open_pictures(tmp_path / "named").classes() == ["a", "b", "a", "b"]
    save(tmp_path / "named" / "9.png", images(1)[0])
    assert open_pictures(tmp_path / "named").classes() is None
    np.savez(tmp_path / "bare.npz", images(4))
    assert open_pictures(tmp_path / "bare.npz").classes() is None
    np.savez(tmp_path / "told.npz", images(4), np.array([3, 0, 12, 3]))
    assert open_pictures(tmp_path / "told.npz").classes() == ["class_0003", "class_0000", "class_0012", "class_0003"]


@pytest.mark.parametrize("labels", [np.arange(3), np.zeros(4), np.arange(-1, 3), np.zeros((4, 1), np.int64)])
def test_classes_that_are_none_are_refused(tmp_path: Path, labels: NDArray[Any]) -> None:
    np.savez(tmp_path / "odd.npz", images(4), labels)
    with pytest.raises(
        EvaluationError, match=r"odd\.npz: arr_1 is .* but classes are whole numbers from 0 on, one for"
    ):
        open_pictures(tmp_path / "odd.npz").classes()


@pytest.mark.parametrize("save_npz", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_an_npz_is_read_as_it_is_stored(tmp_path: Path, save_npz: Any, batch: int) -> None:
    save_npz(tmp_path / "samples.npz", images(7), np.arange(7))
    found = list(open_pictures(tmp_path / "samples.npz").batches(batch))
    assert [len(part) for part in found] == [batch] * (7 // batch) + [7 % batch] * (7 % batch > 0)
    np.testing.assert_array_equal(np.concatenate(found), images(7))


def test_an_npz_is_read_a_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    genuine = zipfile.ZipExtFile.read

    def counted(file: zipfile.ZipExtFile, size: int | None = -1) -> bytes:
        found = genuine(file, size)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    np.savez(tmp_path / "samples.npz", images(40))
    np.testing.assert_array_equal(read(tmp_path / "samples.npz", 3), images(40))
    assert max(sizes) == 3 * 6 * 8 * 3


def test_a_reference_is_cropped_as_training_images_are(tmp_path: Path) -> None:
    large = [save(tmp_path / f"{index}.png", image) for index, image in enumerate(images(4, 40, 60))]
    save(tmp_path / "4.png", images(1, 16, 16)[0])
    found = read(tmp_path, size=ImageSize(16, 16))
    for image, path in zip(found, large, strict=False):
        np.testing.assert_array_equal(image, centre_crop(Image.open(path), ImageSize(16, 16)))
    np.testing.assert_array_equal(found[4], images(1, 16, 16)[0])
    wide = read(tmp_path, size=ImageSize(8, 16))
    for image, path in zip(wide, large, strict=False):
        np.testing.assert_array_equal(image, centre_crop(Image.open(path), ImageSize(8, 16)))
    small = save(tmp_path / "5.png", images(1, 15, 20)[0])
    refuse(tmp_path, f"{small}: this image is 15 x 20 pixels, not 16 x 16; bring all to one size", ImageSize(16, 16))


def test_samples_must_be_of_one_size(tmp_path: Path) -> None:
    for index in range(4):
        save(tmp_path / f"{index}.png", images(1)[0])
    odd = save(tmp_path / "4.png", images(1, 8, 8)[0])
    refuse(tmp_path, f"{odd}: this image is 8 x 8 pixels, not 6 x 8; bring all to one size")
    np.savez(tmp_path / "real.npz", images(4, 32, 32))
    message = r"real\.npz: its images are 32 x 32, the samples 16 x 16 pixels; bring them to one size"
    refuse(tmp_path / "real.npz", message, ImageSize(16, 16))


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (images(4) / np.float32(255), r"float32 \(4, 6, 8, 3\)"),
        (images(4).astype(np.int64), r"int64 \(4, 6, 8, 3\)"),
        (images(4).transpose(0, 3, 1, 2).copy(), r"uint8 \(4, 3, 6, 8\)"),
        (images(4)[..., 0].copy(), r"uint8 \(4, 6, 8\)"),
        (np.asfortranarray(images(4)), r"uint8 \(4, 6, 8, 3\) in column order"),
    ],
    ids=["fractions", "int64", "channels first", "grey", "column order"],
)
def test_an_npz_of_another_type_or_shape(tmp_path: Path, array: NDArray[Any], found: str) -> None:
    np.savez(tmp_path / "samples.npz", array)
    message = rf"samples\.npz: arr_0 is {found}, but images are uint8 \(n, height, width, 3\), 0 to 255; convert it"
    refuse(tmp_path / "samples.npz", message)


def test_an_npz_that_is_no_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    message = r"samples\.npz: this is no whole npz file with images as arr_0 \({}\); get it anew"
    path.write_bytes(b"no zip")
    refuse(path, message.format("File is not a zip file"))
    np.savez(path, images=images(4))
    refuse(path, message.format(r"There is no item named 'arr_0\.npy' in the archive"))
    np.savez(path, images(4))
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + bytes(8) + whole[308:])
    refuse(path, message.format("Bad CRC-32.*"))
    with zipfile.ZipFile(path, "w") as archive:
        array = io.BytesIO()
        np.save(array, images(4))
        archive.writestr("arr_0.npy", array.getvalue()[:-100])
    refuse(path, message.format("cannot reshape.*"))


def test_an_npz_never_runs_code(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", np.array([{"a": 1}] * 4, dtype=object))
    refuse(tmp_path / "samples.npz", r"arr_0 is object \(4,\), but images are uint8")


def test_what_is_no_set_of_images(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    refuse(tmp_path / "few", "few: scores need 4 images or more; there are 0")
    for index in range(3):
        save(tmp_path / "few" / f"{index}.png", images(1)[0])
    refuse(tmp_path / "few", "few: scores need 4 images or more; there are 3")
    message = r"there are no images here; give a folder of them, or an npz file that has arr_0"
    refuse(tmp_path / "absent", f"absent: {message}$")
    refuse(tmp_path / "absent.npz", f"absent.npz: {message}$")
    refuse(tmp_path / "absent", rf"{message}, or saved statistics \(\.safetensors\)", ImageSize(6, 8))


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    for index in range(4):
        save(tmp_path / f"{index}.png", images(1)[0])
    (tmp_path / "3.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"3\.png: this image cannot be read"):
        read(tmp_path)


def test_statistics_that_adm_stored(tmp_path: Path) -> None:
    arrays = {"mu": np.zeros(3), "sigma": np.eye(3), "mu_s": np.ones(2), "sigma_s": np.eye(2, dtype=np.float32)}
    path = tmp_path / "real.npz"
    np.savez(path, images(4), **arrays)
    found = NpzPictures(path).stored_statistics(3, 2)
    assert found is not None
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.float64
    message = r"real\.npz: mu is \(3,\) and should be \(2048,\), as of Inception; get the file again, or leave mu"
    with pytest.raises(EvaluationError, match=message):
        NpzPictures(path).stored_statistics(2048, 2)
    np.savez(path, images(4), mu=np.zeros(3))
    with pytest.raises(EvaluationError, match=r"real\.npz: this is no whole npz file .*mu_s is not a file"):
        NpzPictures(path).stored_statistics(3, 2)
    np.savez(path, images(4), np.arange(4))
    assert NpzPictures(path).stored_statistics(3, 2) is None

"""Images from WebDataset shards: the same token shards as from a folder, nothing but pictures and numbers read."""

import io
import pickle
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from command_line import refused
from encoding import SIZE, encode

from elm_dist.data.image_tars import LARGEST_FILE, ImageTars
from elm_dist.data.images import ImageFolder
from elm_dist.data.shards import ShardReader, load_manifest
from elm_dist.errors import ImageError
from elm_dist.tokenizers.bae import BAE


def write_tar(path: Path, entries: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


@pytest.fixture
def tars(images: Path, tmp_path: Path) -> Path:
    """The images of the folder `images`, in their order, as webdataset writes them: three for training, one other."""
    root = tmp_path / "tars"
    root.mkdir()
    for split, pattern in (("train", "train-%06d.tar"), ("validation", "val-%06d.tar")):
        folder = ImageFolder(images, split, SIZE)
        with webdataset.ShardWriter(str(root / pattern), maxcount=30, verbose=0) as writer:
            for index in range(len(folder)):
                data = (images / folder.name(index)).read_bytes()
                writer.write({"__key__": f"n{index:05d}", "png": data, "cls": folder.label(index)})
    return root


def test_they_are_the_images_of_the_folder(tars: Path, images: Path) -> None:
    for split, count in (("train", 72), ("validation", 12)):
        found, folder = ImageTars(tars, split, SIZE), ImageFolder(images, split, SIZE)
        assert (len(found), found.names) == (count, ["0", "1", "2"])
        for index in (0, count // 2, count - 1):
            np.testing.assert_array_equal(np.asarray(found.open(index)), folder[index][0])
            assert found.label(index) == folder.label(index)
    assert ImageTars(tars, "train", SIZE).name(31) == "train-000001.tar/n00031.png"


def test_they_become_the_same_codes(tars: Path, images: Path, tokenizer: BAE, tmp_path: Path) -> None:
    encode(tars, tmp_path / "from_tars", tokenizer)
    encode(images, tmp_path / "from_folder", tokenizer)
    for path in (tmp_path / "from_folder").glob("*.tar"):
        assert (tmp_path / "from_tars" / path.name).read_bytes() == path.read_bytes()


def test_without_validation_shards_some_images_are_held_out(tars: Path, tokenizer: BAE, tmp_path: Path) -> None:
    (tars / "val-000000.tar").unlink()
    assert encode(tars, tmp_path / "out", tokenizer).images == {"train": 71, "validation": 1}


def test_broken_images_are_named_by_their_shard(tars: Path, tokenizer: BAE, tmp_path: Path) -> None:
    write_tar(tars / "train-000009.tar", [("x.jpg", b"not an image"), ("x.cls", b"1")])
    made = encode(tars, tmp_path / "out", tokenizer, max_broken=0.02)
    assert (tmp_path / "out" / "skipped.json").read_text() == '[\n  "train-000009.tar/x.jpg"\n]\n'
    _, labels = ShardReader(tmp_path / "out", made, "train").read(np.arange(72))
    assert np.bincount(labels).tolist() == [24, 24, 24]
    encode(tars, tmp_path / "out", tokenizer, max_broken=0.02)
    assert load_manifest(tmp_path / "out") == made


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)


def test_other_entries_are_never_read(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    png = (b"picture.PNG", ImageTars(tars, "train", SIZE).open(0))
    stream = io.BytesIO()
    png[1].save(stream, "PNG")
    bomb = pickle.dumps(Bomb())
    entries = [("a/k.pyd", bomb), ("a/k.PNG", stream.getvalue()), ("a/k.cls", b"2\n"), ("a/k.pickle", bomb), ("r", b"")]
    write_tar(tars / "train-000009.tar", entries)
    with tarfile.open(tars / "train-000009.tar", "a") as tar:
        link = tarfile.TarInfo("a/l.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    found = ImageTars(tars, "train", SIZE)
    assert (len(found), found.label(72), found.name(72)) == (73, 2, "train-000009.tar/a/k.PNG")
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [("x.jpg", b"")],
            r"x is an image without a label or a label without an image; each sample needs one of",
        ),
        ([("b/x.cls", b"0")], "b/x is an image without a label or a label without an image"),
        ([("x.jpg", b""), ("x.png", b""), ("x.cls", b"0")], "x is there twice; give each sample a name of its own"),
        ([("x.jpg", b""), ("x.cls", b"0"), ("x.cls", b"1")], "x is there twice; give each sample a name of its own"),
        ([("../x.jpg", b""), ("../x.cls", b"0")], r"tar: \.\./x\.jpg leads out of the shard; make it again with names"),
        ([("a/../../x.jpg", b"")], r"tar: a/\.\./\.\./x\.jpg leads out of the shard"),
        ([("/x.cls", b"0")], r"tar: /x\.cls leads out of the shard"),
        (
            [("x.jpg", b""), ("x.cls", b"cat")],
            "x.cls holds b'cat' where the number of a class belongs; write 0 to",
        ),
        ([("x.jpg", b""), ("x.cls", b"65536")], "x.cls holds b'65536' where the number of a class belongs"),
        ([], "there is no image in its train shards; add some, or remove the shards"),
    ],
)
def test_shards_of_another_form(tmp_path: Path, entries: list[tuple[str, bytes]], message: str) -> None:
    write_tar(tmp_path / "train-000000.tar", entries)
    with pytest.raises(ImageError, match=message):
        ImageTars(tmp_path, "train", SIZE)


def test_a_shard_that_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "train-000000.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(ImageError, match=r"train-000000\.tar: this is not an uncompressed tar file \(.*\); replace it"):
        ImageTars(tmp_path, "train", SIZE)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:1900], r"this is not an uncompressed tar file \(unexpected end of data\); replace it"),
        (lambda data: data[:1124] + b"?" + data[1125:], r"the header at byte 1,024 is damaged; replace the file"),
    ],
)
def test_a_damaged_shard_does_not_pass_for_a_short_one(
    tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "train-000000.tar"
    write_tar(path, [("x.jpg", b"image"), ("y.jpg", b"i" * 512), ("x.cls", b"0"), ("y.cls", b"0")])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ImageError, match=rf"train-000000\.tar: {message}"):
        ImageTars(tmp_path, "train", SIZE)


def test_an_image_of_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    write_tar(path, [("x.cls", b"0")])
    image = tarfile.TarInfo("x.jpg")
    image.size = LARGEST_FILE + 512
    with path.open("r+b") as file:  # a hole, which takes no room on the disk
        file.seek(1024)
        file.write(image.tobuf())
        file.truncate(2048 + image.size)
    images = ImageTars(tmp_path, "train", SIZE)
    with pytest.raises(
        ImageError, match=r"x\.jpg: this image cannot be read \(268,435,968 bytes are too many\); replace"
    ):
        images.open(0)


def test_validation_images_of_unknown_classes(tars: Path, tokenizer: BAE, tmp_path: Path) -> None:
    write_tar(tars / "val-000001.tar", [("x.jpg", b""), ("x.cls", b"3")])
    with pytest.raises(
        ImageError, match="validation images of class 3, but the classes of the training images are 0 to 2"
    ):
        encode(tars, tmp_path / "out", tokenizer)


def test_the_command_refuses_a_folder_of_neither_kind(tmp_path: Path) -> None:
    from trained_run import tokenize_tiles

    tokenized = tokenize_tiles(tmp_path)
    (tmp_path / "empty").mkdir()
    options = ["--tokenizer", str(tokenized / "tokenizer"), "--out", str(tmp_path / "out")]
    assert "there is no folder train in it" in refused("tokenize", "--images", str(tmp_path / "empty"), *options)
    flip = ["--flip", "--views", "ten-crop"]
    said = refused("tokenize", "--images", str(tmp_path / "images"), *options, *flip)
    assert "--flip does not go with --views ten-crop, whose crops are mirrored already; leave --flip out" in said

"""Images in WebDataset shards, a .jpg or .png beside a .cls with its class number, read in any order where they lie.

    root/train-000000.tar, ...
    root/validation-000000.tar, ...      (or root/val-000000.tar)

The headers are read once and the shards never unpacked. Only entries with known endings are read, as pictures or as
numbers: nothing in a shard can start a command or be unpickled. Knows nothing of codes and batches.
"""

import io
import tarfile
from array import array
from pathlib import Path
from typing import IO

from PIL import Image

from elm_dist.config import ImageSize
from elm_dist.data.images import SPLITS, SUFFIXES, read_image
from elm_dist.errors import ImageError

LABEL_SUFFIX = ".cls"
LARGEST_LABEL = 65535  # labels of token shards are uint16
LARGEST_FILE = 2**28  # bytes of an image; the largest of ImageNet has 16 million


class ImageTars:
    """The images of one split in the order of the shards; `names[label]` is the class number as text.

    Raises ImageError for shards that are not of the form above.
    """

    def __init__(self, root: Path, split: str, image_size: ImageSize) -> None:
        self.image_size = image_size
        self._tars = find_tars(root, split)
        self._keys: list[str] = []
        self._labels, self._numbers = array("H"), array("I")  # number: which of the tars
        self._offsets, self._sizes = array("Q"), array("Q")
        for number, path in enumerate(self._tars):
            try:
                with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                    self._index(number, path, file, tar)
            except tarfile.TarError as error:
                raise ImageError(f"{path}: this is not an uncompressed tar file ({error}); replace it") from None
        if not self._keys:
            raise ImageError(f"{root}: there is no image in its {split} shards; add some, or remove the shards")
        self.names = [str(label) for label in range(max(self._labels) + 1)]

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, index: int) -> str:
        """Return the name of the shard and of the image in it."""
        return f"{self._tars[self._numbers[index]].name}/{self._keys[index]}"

    def label(self, index: int) -> int:
        return self._labels[index]

    def open(self, index: int) -> Image.Image:
        """Return the whole image, RGB; raises ImageError if it is unreadable."""
        path, size = self._tars[self._numbers[index]], self._sizes[index]
        name = f"{path}/{self._keys[index]}"
        if size > LARGEST_FILE:
            raise ImageError(f"{name}: this image cannot be read ({size:,} bytes are too many); replace or remove it")
        with path.open("rb") as file:
            file.seek(self._offsets[index])
            data = file.read(size)
        return read_image(name, io.BytesIO(data))

    def _index(self, number: int, path: Path, file: IO[bytes], tar: tarfile.TarFile) -> None:
        """Note where the images of one shard are; an image and its label are of one name and in any order."""
        images: dict[str, tarfile.TarInfo] = {}
        labels: dict[str, tarfile.TarInfo] = {}
        for member in tar:
            folder, _, base = member.name.rpartition("/")
            stem, dot, ending = base.partition(".")
            key, suffix = f"{folder}/{stem}", (dot + ending).lower()
            if suffix not in (*SUFFIXES, LABEL_SUFFIX) or not member.isreg():
                continue
            if member.name.startswith("/") or ".." in folder.split("/"):
                raise ImageError(f"{path}: {member.name} leads out of the shard; make it again with names within it")
            of_its_kind = labels if suffix == LABEL_SUFFIX else images
            if key in of_its_kind:
                raise ImageError(f"{path}: {key.lstrip('/')} is there twice; give each sample a name of its own")
            of_its_kind[key] = member
        _check_end(path, file, tar)
        if odd := sorted(images.keys() ^ labels.keys()):
            raise ImageError(
                f"{path}: {odd[0].lstrip('/')} is an image without a label or a label without an image; each sample "
                f"needs one of {', '.join(SUFFIXES)} and one {LABEL_SUFFIX}"
            )
        for key, member in images.items():
            self._keys.append(member.name)
            self._labels.append(_read_label(path, file, labels[key]))
            self._numbers.append(number)
            self._offsets.append(member.offset_data)
            self._sizes.append(member.size)


def find_tars(root: Path, split: str) -> list[Path]:
    return sorted(path for name in SPLITS[split] for path in root.glob(f"{name}-*.tar"))


def _check_end(path: Path, file: IO[bytes], tar: tarfile.TarFile) -> None:
    """Raise ImageError unless the entries end as a tar does: `tarfile` takes a damaged header for the end as well."""
    file.seek(tar.offset)
    if any(file.read(tarfile.BLOCKSIZE)):
        raise ImageError(f"{path}: the header at byte {tar.offset:,} is damaged; replace the file")


def _read_label(path: Path, file: IO[bytes], member: tarfile.TarInfo) -> int:
    file.seek(member.offset_data)
    text = file.read(min(member.size, 16)).strip()
    if not text.isdigit() or int(text) > LARGEST_LABEL:
        raise ImageError(
            f"{path}: {member.name} holds {text!r} where the number of a class belongs; write 0 to {LARGEST_LABEL}"
        )
    return int(text)

"""The format of token shards: a manifest and tar files of packed codes, read where they lie.

A shard is a plain WebDataset whose entries hold up to 1,024 samples each, so that stock tools read it and a memory map
of it is nearly as fast as one flat array. `docs/data.md` has the layout byte for byte. Knows nothing of images, of the
order that training reads in, and of how shards are written.
"""

import hashlib
import math
import operator
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from reprlib import repr as short
from typing import IO, Annotated, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import Grid, ImageSize, Sides
from elm_dist.errors import ShardError
from elm_dist.files import sha256

Split = Literal["train", "validation"]
Views = Literal["centre", "ten-crop"]
Payload = Literal["bits", "probabilities"]
Count = Annotated[int, Field(ge=1)]
Number = TypeVar("Number", bound=np.generic)

MANIFEST = "manifest.json"
UNFINISHED = "manifest.partial.json"  # what a set will be that is not finished, without its shards
REMAKE = "make shards with `elm tokenize --images DIR --tokenizer DIR --out SHARDS`"
REPLACE = "run the same `elm tokenize` again, it replaces the file"
OPEN_SHARDS = 128  # training shuffles samples of 64 blocks together, and a block touches two shards at most


class ShardFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Annotated[str, Field(pattern=r"^(train|validation)-\d{6}\.tar$")]  # a bare name: never outside the folder
    samples: Annotated[int, Field(ge=0)]
    bytes: Count
    sha256: str
    # Images that could not be read: the samples are those of the other images. Unwritten where there are none.
    skipped: Annotated[tuple[str, ...], Field(exclude_if=operator.not_)] = ()


class Manifest(BaseModel):
    """What a folder of shards holds, and what it was made from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    bit_order: Literal["big-endian"] = "big-endian"  # as in codes/subtokens.py, which is `np.packbits`
    tokenizer_fingerprint: str
    payload: Annotated[Payload, Field(exclude_if=lambda payload: payload == "bits")] = "bits"  # of a stored sample
    code_bits: Annotated[int, Field(ge=1, le=64)]
    grid: Annotated[Grid, *Sides]
    image_size: Annotated[ImageSize, *Sides]
    record_rows: Count  # samples per entry of a tar; the last of each tar may hold fewer
    classes: tuple[str, ...]  # names; a label is an index into them
    seed: int  # of the shuffle at write time
    flip: bool  # whether each training image is there a second time, mirrored
    views: Annotated[Views, Field(exclude_if=lambda views: views == "centre")] = "centre"  # of each training image
    images: dict[Split, int]  # how many there are to make samples from
    splits: dict[Split, tuple[ShardFile, ...]] = {}

    @property
    def image_bits(self) -> int:
        """Bits of one image's codes."""
        return self._shape.image_bits

    @property
    def packed_bytes(self) -> int:
        """The same packed into bytes, which is how a model gets them."""
        return self._shape.packed_bytes

    @property
    def sample_bytes(self) -> int:
        """Bytes of one stored sample: its bits packed, or a byte for the probability of each."""
        return self.image_bits if self.payload == "probabilities" else self.packed_bytes

    @property
    def sample_type(self) -> np.dtype[np.void]:
        """A stored sample as one item of an array: numpy gathers such items faster than rows of bytes."""
        return np.dtype((np.void, self.sample_bytes))

    @property
    def _shape(self) -> CodeShape:
        return CodeShape(self.grid.cells, subtokens=1, subtoken_bits=self.code_bits)

    @property
    def fingerprint(self) -> str:
        """The sha256 of manifest.json: two sets of shards with the same one are the same, byte for byte."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    def files(self, split: Split) -> tuple[ShardFile, ...]:
        return self.splits.get(split, ())

    def samples(self, split: Split) -> int:
        return sum(entry.samples for entry in self.files(split))


def load_manifest(directory: Path) -> Manifest:
    """Return the manifest of a finished set of shards; raises ShardError if there is none."""
    manifest = read_manifest(directory / MANIFEST)
    if manifest is not None:
        return manifest
    if (directory / UNFINISHED).exists():
        raise ShardError(
            f"{directory}: these shards are not finished; run the same `elm tokenize` again, it goes on from there"
        )
    raise ShardError(
        f"{directory}: there are no token shards here; run `elm tokenizer train CONFIG`, then "
        "`elm tokenize --images DIR --tokenizer DIR --out SHARDS`"
    )


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest in a file, None if there is no such file; raises ShardError if it is something else."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ShardError(f"{path}: not the manifest of shards ({where}: {first['msg']}); {REMAKE}") from None


def check_manifest_fits(
    manifest: Manifest, directory: Path, *, code_bits: int, grid: Grid, tokenizer_fingerprint: str
) -> None:
    """Raise ShardError if the shards were made with another tokenizer than that of the run."""
    needed = {"code_bits": code_bits, "grid": grid, "tokenizer_fingerprint": tokenizer_fingerprint}
    differences = describe_differences(manifest, needed)
    if differences:
        raise ShardError(f"{directory}: the shards do not fit this run ({differences}); {REMAKE}")


def describe_differences(recorded: Manifest, needed: dict[str, object]) -> str:
    """Return where the manifest differs from what is needed, as words; empty if it does not."""
    return ", ".join(
        f"{name} is {short(getattr(recorded, name))}, not {short(value)}"
        for name, value in needed.items()
        if getattr(recorded, name) != value
    )


def verify_shards(directory: Path) -> None:
    """Read every shard in full; raises ShardError for the first that is not as the manifest says."""
    manifest = load_manifest(directory)
    for split in manifest.splits:
        for entry in manifest.files(split):
            _open_shard(directory / entry.file, entry, manifest, verify=True)


# --- Reading ---------------------------------------------------------------------------------------------------------


class ShardReader:
    """Random access to the samples of one split by their stored index; opens a shard when it is first touched.

    With `verify`, it also reads the shard in full then, once, and compares its checksum. A shard that was bad at a
    touch stays so: `bad` has the message of each by its number.
    """

    def __init__(self, directory: Path, manifest: Manifest, split: Split, *, verify: bool = False) -> None:
        self.bad: dict[int, str] = {}
        self._directory, self._manifest = directory, manifest
        self._files = manifest.files(split)
        self._unverified = set(range(len(self._files))) if verify else set()
        if not self._files:
            raise ShardError(f"{directory}: there are no {split} samples in these shards; {REMAKE}")
        self._starts = np.cumsum([0, *(entry.samples for entry in self._files)])
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(self._open)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shards(self) -> int:
        """How many shards there are that hold samples."""
        return sum(entry.samples > 0 for entry in self._files)

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """Return copies of the codes (n, sample_bytes) and the labels (n,) of any stored indices (n,) in any order.

        Raises ShardError if one of them lies in a shard that is missing or damaged.
        """
        codes = np.empty(len(indices), self._manifest.sample_type)
        labels = np.empty(len(indices), np.uint16)
        shards = self._shards_of(indices)
        rows, order = indices - self._starts[shards], np.argsort(shards)
        counts = np.bincount(shards)
        numbers = np.flatnonzero(counts)
        ends = np.cumsum(counts[numbers])  # of each shard's part of `order`
        for number, start, end in zip(numbers.tolist(), ends - counts[numbers], ends, strict=True):
            here = order[start:end]
            codes[here], labels[here] = self._shard(number).read(rows[here])
        return codes.view(np.uint8).reshape(-1, self._manifest.sample_bytes), labels

    def is_bad(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the stored indices (n,) lie in bad shards; touches all shards that they lie in."""
        shards = self._shards_of(indices)
        for number in np.unique(shards):
            with suppress(ShardError):
                self._shard(int(number))
        return np.isin(shards, list(self.bad))

    def _shards_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._starts, indices, side="right") - 1

    def _open(self, number: int) -> "_OpenShard":
        if number in self.bad:
            raise ShardError(self.bad[number])
        entry = self._files[number]
        try:
            shard = _open_shard(self._directory / entry.file, entry, self._manifest, verify=number in self._unverified)
        except ShardError as error:
            self.bad[number] = str(error)
            raise
        self._unverified.discard(number)
        return shard


class _OpenShard(NamedTuple):
    """The labels of one tar, its memory map, and where in that each record of codes begins."""

    record_rows: int
    labels: NDArray[np.uint16]  # (samples,)
    codes: NDArray[np.void]  # what would be a sample, were it to begin at this byte of the file
    offsets: NDArray[np.int64]  # (records,)

    def read(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.void], NDArray[np.uint16]]:
        record, row = np.divmod(rows, self.record_rows)
        return self.codes[self.offsets[record] + row * self.codes.itemsize], self.labels[rows]


def _open_shard(path: Path, entry: ShardFile, manifest: Manifest, *, verify: bool) -> _OpenShard:
    """Check the whole layout of a shard, reading its headers and labels alone unless `verify`; map it into memory."""
    try:
        with path.open("rb") as file:
            if (size := os.fstat(file.fileno()).st_size) != entry.bytes:
                raise _DamagedError(f"the file has {size} bytes, not the {entry.bytes} of the manifest")
            with tarfile.open(fileobj=file, mode="r:") as tar:
                pairs = zip_longest(tar.getmembers(), _layout(entry.samples, manifest))
                offsets = np.array([_data_offset(file, member, expected) for member, expected in pairs], np.int64)
        data = np.asarray(np.memmap(path, np.uint8, mode="r"))
        record, row = np.divmod(np.arange(entry.samples), manifest.record_rows)
        labels = _at_each_byte(data, np.dtype("<u2"))[offsets[::2][record] + 2 * row]
        if (label := labels.max(initial=0)) >= len(manifest.classes):
            # Further on, a GPU would fail on it without a word of where it came from.
            raise _DamagedError(f"it has the label {label}, but there are {len(manifest.classes)} classes")
        if verify and sha256(path) != entry.sha256:
            raise ShardError(f"{path}: the checksum is not that of the manifest; {REPLACE}")
    except FileNotFoundError:
        raise ShardError(f"{path}: the file is missing; {REPLACE}") from None
    except OSError as error:
        raise ShardError(
            f"{path}: the file cannot be read ({error.strerror}); make it readable, or {REPLACE}"
        ) from None
    except (tarfile.TarError, _DamagedError) as error:
        raise ShardError(f"{path}: the file is damaged ({error}); {REPLACE}") from None
    return _OpenShard(manifest.record_rows, labels, _at_each_byte(data, manifest.sample_type), offsets[1::2])


def _at_each_byte(data: NDArray[np.uint8], dtype: np.dtype[Number]) -> NDArray[Number]:
    """Return a view of bytes (n,) that has, for each byte, the item that begins there, (n - size + 1,)."""
    return np.ndarray((len(data) - dtype.itemsize + 1,), dtype, data, strides=(1,))


class _Entry(NamedTuple):
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]


class _DamagedError(Exception):
    """What a shard holds is not what its manifest says."""


def _layout(samples: int, manifest: Manifest) -> Iterator[_Entry]:
    """Yield the entries that a shard of so many samples has, in their order (of names, as TarWriter sorts them)."""
    for record, start in enumerate(range(0, samples, manifest.record_rows)):
        rows = min(manifest.record_rows, samples - start)
        yield _Entry(f"{record:09d}.cls.npy", np.dtype("<u2"), (rows,))
        yield _Entry(f"{record:09d}.codes.npy", np.dtype("u1"), (rows, manifest.sample_bytes))


def _data_offset(file: IO[bytes], member: tarfile.TarInfo | None, expected: _Entry | None) -> int:
    """Return where in `file` the numbers of an entry begin; raises _DamagedError if it is not the `expected` one."""
    if member is None or expected is None or member.name != expected.name:
        names = [entry.name if entry else "nothing" for entry in (member, expected)]
        raise _DamagedError(f"it has {names[0]} where {names[1]} belongs")
    if not member.isreg():
        raise _DamagedError(f"{member.name} is not a regular file")
    file.seek(member.offset_data)
    try:
        if npy.read_magic(file) != (1, 0):
            raise ValueError("the version is not 1.0")
        shape, fortran_order, dtype = npy.read_array_header_1_0(file)
    except ValueError as error:
        raise _DamagedError(f"{member.name} is not a .npy array: {' '.join(str(error).split())}") from None
    if fortran_order:
        raise _DamagedError(f"{member.name} is in column order, not in row order")
    if (dtype, shape) != (expected.dtype, expected.shape):
        raise _DamagedError(f"{member.name} is {dtype} {shape}, not {expected.dtype} {expected.shape}")
    offset = file.tell()
    if offset + math.prod(shape) * dtype.itemsize != member.offset_data + member.size:
        raise _DamagedError(f"{member.name} has {member.size} bytes, which is not the size of its array")
    return offset

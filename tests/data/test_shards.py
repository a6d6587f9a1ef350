import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy
from numpy.typing import NDArray

from elm_dist.config import Grid
from elm_dist.data.shards import (
    Manifest,
    ShardReader,
    check_manifest_fits,
    load_manifest,
    verify_shards,
)
from elm_dist.errors import ShardError

WriteShards = Callable[..., Path]


def stored_index(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    return codes.copy().view(">u8")[:, 0].astype(np.int64)


def npy_bytes(array: NDArray, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    npy.write_array(stream, array, version=version)
    return stream.getvalue()


def rewrite(path: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> None:
    """Write a shard anew with other entries, and its new size into the manifest."""
    with tarfile.open(path) as tar:
        entries = [(member, tar.extractfile(member).read()) for member in tar.getmembers()]
    change(entries)
    with tarfile.open(path, "w") as tar:
        for member, data in entries:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    accept_size(path)


def accept_size(path: Path) -> None:
    manifest_path = path.parent / "manifest.json"
    tree = json.loads(manifest_path.read_text())
    for entry in tree["splits"]["train"] + tree["splits"]["validation"]:
        if entry["file"] == path.name:
            entry["bytes"] = path.stat().st_size
    manifest_path.write_text(json.dumps(tree))


def read_first(directory: Path) -> None:
    ShardReader(directory, load_manifest(directory), "train").read(np.array([0]))


# --- Reading and writing ---------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    samples=st.integers(1, 70),
    shard_samples=st.integers(1, 40),
    record_rows=st.integers(1, 40),
    data=st.data(),
)
def test_any_rows_in_any_order_come_back(
    write_shards: WriteShards, samples: int, shard_samples: int, record_rows: int, data: st.DataObject
) -> None:
    directory = write_shards(samples, 1, shard_samples, record_rows)
    reader = ShardReader(directory, load_manifest(directory), "train")
    indices = np.array(data.draw(st.lists(st.integers(0, samples - 1), min_size=1, max_size=50)))
    codes, labels = reader.read(indices)
    assert len(reader) == samples
    assert codes.shape == (len(indices), 8)
    assert stored_index(codes).tolist() == indices.tolist()
    assert labels.tolist() == (indices % 3).tolist()


def test_nothing_is_opened_before_it_is_read(write_shards: WriteShards) -> None:
    directory = write_shards(train=60, shard_samples=20)
    for path in directory.glob("train-00000[12].tar"):
        path.write_bytes(b"")
    reader = ShardReader(directory, load_manifest(directory), "train")
    assert stored_index(reader.read(np.array([19, 0]))[0]).tolist() == [19, 0]
    with pytest.raises(ShardError, match=r"train-000001\.tar"):
        reader.read(np.array([20]))


def test_the_same_input_gives_the_same_bytes(write_shards: WriteShards) -> None:
    first, second = write_shards(), write_shards()
    names = sorted(path.name for path in first.iterdir())
    assert names == ["manifest.json", *(f"train-00000{i}.tar" for i in range(3)), "validation-000000.tar"]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert load_manifest(first).fingerprint == load_manifest(second).fingerprint


def test_the_manifest_counts(write_shards: WriteShards) -> None:
    manifest = load_manifest(write_shards(train=50, validation=10, shard_samples=20))
    assert [entry.samples for entry in manifest.files("train")] == [20, 20, 10]
    assert (manifest.samples("train"), manifest.samples("validation")) == (50, 10)
    assert manifest.packed_bytes == 8


def test_stock_webdataset_reads_the_same(write_shards: WriteShards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset.utils, "enforce_security", True)  # what WDS_SECURE=1 sets
    directory = write_shards(train=50, shard_samples=20, record_rows=8)
    urls = sorted(map(str, directory.glob("train-*.tar")))
    stock = webdataset.WebDataset(urls, shardshuffle=False, select_files=lambda name: name.endswith(".npy"))
    records = list(stock.decode(only=["codes.npy", "cls.npy"]))
    codes = np.concatenate([record["codes.npy"] for record in records])
    labels = np.concatenate([record["cls.npy"] for record in records])
    ours = ShardReader(directory, load_manifest(directory), "train").read(np.arange(50))
    assert [len(record["cls.npy"]) for record in records] == [8, 8, 4, 8, 8, 4, 8, 2]
    np.testing.assert_array_equal(codes, ours[0])
    np.testing.assert_array_equal(labels, ours[1])
    assert codes.dtype == np.uint8
    assert labels.dtype == np.uint16


def test_a_reader_written_from_the_documentation_reads_the_same(write_shards: WriteShards) -> None:
    """docs/data.md is enough: headers of 512 bytes with an octal size at 124, `.npy` headers as long as they say."""
    data = (write_shards(train=19, shard_samples=19, record_rows=8) / "train-000000.tar").read_bytes()
    entries, offset = {}, 0
    while data[offset]:
        name, size = data[offset : offset + 100].rstrip(b"\0").decode(), int(data[offset + 124 : offset + 135], 8)
        array = data[offset + 512 : offset + 512 + size]
        entries[name] = array[10 + int.from_bytes(array[8:10], "little") :]
        offset += 512 + -(-size // 512) * 512
    for row in range(19):
        record, place = f"{row // 8:09d}", row % 8
        code = entries[f"{record}.codes.npy"][8 * place : 8 * place + 8]
        label = entries[f"{record}.cls.npy"][2 * place : 2 * place + 2]
        assert int.from_bytes(code, "big") == row
        assert int.from_bytes(label, "little") == row % 3
    assert len(entries) == 6


# --- What is refused -------------------------------------------------------------------------------------------------


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="there are no token shards here") as error:
        load_manifest(tmp_path / "nowhere")
    assert "`elm tokenizer train CONFIG`" in str(error.value)
    assert "`elm tokenize --images DIR --tokenizer DIR --out SHARDS`" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.update(schema_version=2), "schema_version: Input should be 1"),
        (lambda tree: tree.update(colour="red"), "colour: Extra inputs are not permitted"),
        (lambda tree: tree["splits"]["train"][0].update(file="../x.tar"), r"train\.0\.file: String should match"),
    ],
)
def test_a_manifest_of_another_form(write_shards: WriteShards, change: Callable[[dict], None], message: str) -> None:
    path = write_shards() / "manifest.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(ShardError, match=f"not the manifest of shards .*{message}.*; make shards with `elm tokenize"):
        load_manifest(path.parent)


def test_a_manifest_that_is_no_json(write_shards: WriteShards) -> None:
    path = write_shards() / "manifest.json"
    path.write_text("{")
    with pytest.raises(ShardError, match=r"not the manifest of shards \(the file: Invalid JSON"):
        load_manifest(path.parent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code_bits": 24}, "code_bits is 16, not 24"),
        ({"grid": Grid(16, 16)}, "grid is 2 x 2, not 16 x 16"),
        ({"tokenizer_fingerprint": "ef"}, "tokenizer_fingerprint is 'ab12', not 'ef'"),
        ({"code_bits": 24, "grid": Grid(16, 16)}, "code_bits is 16, not 24, grid is 2 x 2, not 16 x 16"),
    ],
)
def test_shards_of_another_tokenizer(manifest: Manifest, changes: dict, message: str) -> None:
    run = {"code_bits": 16, "grid": Grid(2, 2), "tokenizer_fingerprint": "ab12"}
    check_manifest_fits(manifest, Path("shards"), **run)
    with pytest.raises(ShardError, match=rf"do not fit this run \({message}\); make shards with `elm tokenize"):
        check_manifest_fits(manifest, Path("shards"), **{**run, **changes})


def test_a_split_without_samples(write_shards: WriteShards) -> None:
    directory = write_shards(validation=0)
    with pytest.raises(ShardError, match="there are no validation samples in these shards; make shards"):
        ShardReader(directory, load_manifest(directory), "validation")


def test_a_missing_shard(write_shards: WriteShards) -> None:
    directory = write_shards()
    (directory / "train-000000.tar").unlink()
    with pytest.raises(ShardError, match=r"train-000000\.tar: the file is missing; run the same `elm tokenize` again"):
        read_first(directory)


def test_a_shard_of_another_size(write_shards: WriteShards) -> None:
    path = write_shards() / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShardError, match="damaged \\(the file has 10239 bytes, not the 10240 of the manifest\\)"):
        read_first(path.parent)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (100, "truncated header"),
        (700, "unexpected end of data"),
        (2048, "it has nothing where 000000001.cls.npy belongs"),
    ],
)
def test_a_truncated_tar(write_shards: WriteShards, size: int, message: str) -> None:
    path = write_shards() / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:size])
    accept_size(path)
    with pytest.raises(ShardError, match=rf"is damaged \({message}\); run the same `elm tokenize` again"):
        read_first(path.parent)


@pytest.mark.parametrize(
    ("place", "message"),
    [(20, "bad checksum"), (1024 + 20, r"it has nothing where 000000000\.codes\.npy belongs")],  # first, second header
)
def test_a_damaged_header(write_shards: WriteShards, place: int, message: str) -> None:
    path = write_shards() / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=rf"is damaged \({message}\); run the same `elm tokenize` again"):
        read_first(path.parent)


def test_a_shard_that_the_system_does_not_give(write_shards: WriteShards) -> None:
    path = write_shards() / "train-000000.tar"
    path.unlink()
    path.mkdir()
    with pytest.raises(
        ShardError, match=r"cannot be read \(Is a directory\); make it readable, or run the same `elm tok"
    ):
        read_first(path.parent)


def replace_data(number: int, data: bytes) -> Callable[[list], None]:
    def change(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        entries[number] = (entries[number][0], data)

    return change


def rename(number: int, name: str) -> Callable[[list], None]:
    return lambda entries: setattr(entries[number][0], "name", name)


def make_link(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entries[0][0].type, entries[0][0].linkname = tarfile.SYMTYPE, "/etc/passwd"
    entries[0] = (entries[0][0], b"")


def repeat_key(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entries[2:2] = entries[:2]


def add_entry(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entries.append((tarfile.TarInfo("notes.txt"), b"hello"))


LABELS, CODES = np.zeros(8, np.uint16), np.zeros((8, 8), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename(1, "../000000000.codes.npy"), r"it has \.\./000000000\.codes\.npy where 000000000\.codes\.npy belongs"),
        (rename(1, "000000000.codes.pkl"), r"it has 000000000\.codes\.pkl where 000000000\.codes\.npy belongs"),
        (repeat_key, r"it has 000000000\.cls\.npy where 000000001\.cls\.npy belongs"),
        (lambda entries: entries.pop(), r"it has nothing where 000000002\.codes\.npy belongs"),
        (add_entry, r"it has notes\.txt where nothing belongs"),
        (make_link, r"000000000\.cls\.npy is not a regular file"),
        (replace_data(0, b"no array at all"), r"000000000\.cls\.npy is not a \.npy array: "),
        (replace_data(0, npy_bytes(LABELS, version=(2, 0))), r"is not a \.npy array: the version is not 1\.0"),
        (replace_data(0, npy_bytes(LABELS.astype(object))), r"000000000\.cls\.npy is object \(8,\), not uint16 \(8,\)"),
        (replace_data(0, npy_bytes(LABELS.astype(">u2"))), r"000000000\.cls\.npy is >u2 \(8,\), not uint16 \(8,\)"),
        (replace_data(1, npy_bytes(CODES[:7])), r"000000000\.codes\.npy is uint8 \(7, 8\), not uint8 \(8, 8\)"),
        (replace_data(1, npy_bytes(CODES[:, :7])), r"000000000\.codes\.npy is uint8 \(8, 7\), not uint8 \(8, 8\)"),
        (replace_data(1, npy_bytes(CODES.astype(np.int8))), r"codes\.npy is int8 \(8, 8\), not uint8 \(8, 8\)"),
        (replace_data(1, npy_bytes(np.asfortranarray(CODES))), r"codes\.npy is in column order"),
        (replace_data(0, npy_bytes(LABELS + 3)), r"it has the label 3, but there are 3 classes"),
        (
            replace_data(1, npy_bytes(CODES) + bytes(2**20)),
            r"codes\.npy has 1048768 bytes, which is not the size of its",
        ),
        (replace_data(1, npy_bytes(CODES)[:-1]), r"codes\.npy has 191 bytes, which is not the size of its array"),
    ],
)
def test_a_shard_with_other_entries(write_shards: WriteShards, change: Callable[[list], None], message: str) -> None:
    path = write_shards() / "train-000000.tar"
    rewrite(path, change)
    with pytest.raises(ShardError, match=f"the file is damaged \\(.*{message}.*; run the same `elm tokenize` again"):
        read_first(path.parent)


def test_verify_finds_one_changed_bit(write_shards: WriteShards) -> None:
    directory = write_shards()
    verify_shards(directory)
    path = directory / "train-000002.tar"
    data = bytearray(path.read_bytes())
    data[1024 + 512 + 128] ^= 1  # in the codes of the first record: two headers of tar, one array of labels
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"train-000002\.tar: the checksum is not that of the manifest"):
        verify_shards(directory)

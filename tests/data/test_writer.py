"""Sets of shards that are written in parts: what is kept, what is made again, and what is not written to."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from elm_dist.data.shards import Manifest, ShardReader, load_manifest, verify_shards
from elm_dist.data.writer import ShardWriter
from elm_dist.errors import ShardError

WriteShards = Callable[..., Path]

FILES = {"train": ["train-000000.tar", "train-000001.tar"], "validation": ["validation-000000.tar"]}


def read(directory: Path, split: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    return ShardReader(directory, load_manifest(directory), split).read(np.arange(start, stop))


def test_parts_written_in_any_order_by_any_writer_are_the_whole(
    tmp_path: Path, manifest: Manifest, write_shards: WriteShards
) -> None:
    whole, part = write_shards(train=30, validation=5, shard_samples=20), tmp_path / "part"
    first = ShardWriter(part, manifest)
    first.write("train-000001.tar", *read(whole, "train", 20, 30))
    (part / ".train-000000.tar.partial").write_bytes(b"what a killed process leaves")
    with pytest.raises(ShardError, match="not finished; run the same `elm tokenize` again"):
        load_manifest(part)

    other = ShardWriter(part, manifest, is_main=False)
    assert not other.is_intact("train-000000.tar")
    other.write("train-000000.tar", *read(whole, "train", 0, 20))
    other.write("validation-000000.tar", *read(whole, "validation", 0, 5))

    assert all(first.is_intact(file) for files in FILES.values() for file in files)
    assert first.finish(FILES) == load_manifest(whole)
    assert sorted(path.name for path in part.iterdir()) == sorted(path.name for path in whole.iterdir())
    for path in whole.iterdir():
        assert (part / path.name).read_bytes() == path.read_bytes()


def test_the_shards_of_a_finished_set_are_known(write_shards: WriteShards, manifest: Manifest) -> None:
    """Also to a process that started before the main one finished, and whose own entries are gathered by now."""
    writer = ShardWriter(write_shards(), manifest, is_main=False)
    assert writer.is_intact("train-000001.tar")
    assert not writer.is_intact("train-000007.tar")


def test_a_damaged_shard_is_not_intact(
    write_shards: WriteShards, manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    directory = write_shards(train=50, shard_samples=20)
    codes, labels = read(directory, "train", 20, 40)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    for damage in (b"\0" * len(before["train-000001.tar"]), b"short", None):
        path = directory / "train-000001.tar"
        path.unlink() if damage is None else path.write_bytes(damage)
        writer = ShardWriter(directory, manifest)
        assert not writer.is_intact("train-000001.tar")
        writer.write("train-000001.tar", codes, labels)
        assert "train-000001.tar is missing, damaged, or lacks images that can be read now" in caplog.text
        files = {split: [entry.file for entry in load_manifest(directory).files(split)] for split in FILES}
        assert all(writer.is_intact(file) for split in files for file in files[split])
        writer.finish(files)
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_an_entry_that_cannot_be_read_is_none(tmp_path: Path, manifest: Manifest) -> None:
    writer = ShardWriter(tmp_path, manifest)
    writer.write("train-000000.tar", np.zeros((3, 8), np.uint8), np.zeros(3, np.uint16))
    (tmp_path / "train-000000.json").write_text("{")
    assert not ShardWriter(tmp_path, manifest).is_intact("train-000000.tar")


def test_images_that_were_left_out_are_listed(tmp_path: Path, manifest: Manifest) -> None:
    writer = ShardWriter(tmp_path, manifest)
    rows = np.zeros((3, 8), np.uint8), np.zeros(3, np.uint16)
    writer.write("train-000000.tar", *rows, skipped=["train/cat/2.png", "train/cat/1.png", "train/cat/2.png"])
    writer.write("train-000001.tar", *rows, skipped=["train/cat/1.png"])
    writer.write("validation-000000.tar", rows[0][:0], rows[1][:0])  # no image of it could be read
    made = writer.finish(FILES)
    assert json.loads((tmp_path / "skipped.json").read_text()) == ["train/cat/1.png", "train/cat/2.png"]
    assert made.files("train")[0].skipped == ("train/cat/1.png", "train/cat/2.png")
    assert load_manifest(tmp_path) == made
    assert len(ShardReader(tmp_path, made, "validation")) == 0
    verify_shards(tmp_path)
    writer = ShardWriter(tmp_path, manifest)
    for file in FILES["train"]:
        writer.write(file, *rows)
    assert writer.is_intact("validation-000000.tar")
    writer.finish(FILES)
    assert not (tmp_path / "skipped.json").exists()
    assert "skipped" not in (tmp_path / "manifest.json").read_text()


def test_the_other_processes_wait_for_the_main_one(tmp_path: Path, manifest: Manifest) -> None:
    writers: list[ShardWriter] = []
    waiting = threading.Thread(target=lambda: writers.append(ShardWriter(tmp_path, manifest, is_main=False)))
    waiting.start()
    waiting.join(timeout=0.5)
    assert waiting.is_alive()
    ShardWriter(tmp_path, manifest)
    waiting.join(timeout=20)
    assert len(writers) == 1


def test_a_folder_with_other_shards_is_not_written_to(write_shards: WriteShards, manifest: Manifest) -> None:
    directory = write_shards()
    other = manifest.model_copy(update={"seed": 1, "tokenizer_fingerprint": "ef"})
    for is_main in (True, False):
        with pytest.raises(ShardError, match="choose another folder with --out, or remove this one") as error:
            ShardWriter(directory, other, is_main=is_main)
        assert "holds other shards (tokenizer_fingerprint is 'ab12', not 'ef', seed is 0, not 1)" in str(error.value)
    verify_shards(directory)


def test_a_folder_with_other_files_is_not_written_to(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "train-000000.tar").write_bytes(b"somebody's photographs")
    with pytest.raises(ShardError, match="holds other files; choose an empty or a new one with --out"):
        ShardWriter(tmp_path, manifest)
    assert (tmp_path / "train-000000.tar").read_bytes() == b"somebody's photographs"

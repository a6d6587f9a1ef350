import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from elm_dist.checkpoint import stream
from elm_dist.checkpoint.stream import write_safetensors

TENSORS = {
    "matrix": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
    "größe": torch.arange(7, dtype=torch.float32),
    "scalar": torch.tensor(2.5),
}
SHAPES = {name: list(tensor.shape) for name, tensor in TENSORS.items()}


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    written = write_safetensors(path, SHAPES, torch.float32, TENSORS.values())
    loaded = load_file(path)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    assert written == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_values_are_where_the_library_puts_them(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    tensor = {"a": TENSORS["matrix"]}
    write_safetensors(ours, {"a": [3, 5]}, torch.float32, tensor.values())
    save_file(tensor, theirs, metadata={"format": "pt"})
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("chunk", [4, 16, 2**20])
def test_one_flat_part_is_the_same_file_in_chunks_of_any_size(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK", chunk)
    flat = torch.cat([tensor.view(-1) for tensor in TENSORS.values()])
    parted = write_safetensors(tmp_path / "a", SHAPES, torch.float32, TENSORS.values())
    assert write_safetensors(tmp_path / "b", SHAPES, torch.float32, [flat]) == parted
    assert parted.sha256 == hashlib.sha256((tmp_path / "b").read_bytes()).hexdigest()


def test_values_are_rounded_to_bf16(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a", SHAPES, torch.bfloat16, TENSORS.values())
    loaded = load_file(tmp_path / "a")
    assert all(torch.equal(loaded[name], tensor.bfloat16()) for name, tensor in TENSORS.items())


def test_tensors_are_asked_for_one_by_one_as_they_are_written(tmp_path: Path) -> None:
    """So one at a time is in memory, but for the little that the checksum is behind."""
    path = tmp_path / "a"
    seen = []

    def values() -> Iterator[torch.Tensor]:
        for _ in range(4):
            seen.append(path.stat().st_size)
            yield torch.zeros(2**22)

    write_safetensors(path, {str(index): [2**22] for index in range(4)}, torch.float32, values())
    assert seen == sorted(seen)
    assert seen[3] > 2 * 2**24

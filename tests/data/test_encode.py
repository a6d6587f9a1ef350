import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from encoding import SIZE, TRAIN, encode
from numpy.typing import NDArray

from elm_dist.data.images import ImageFolder
from elm_dist.data.shards import ShardReader, load_manifest, verify_shards
from elm_dist.errors import ImageError, ShardError
from elm_dist.tokenizers.bae import BAE


def read_all(directory: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    reader = ShardReader(directory, load_manifest(directory), split)
    return reader.read(np.arange(len(reader)))


def codes_of(folder: ImageFolder, tokenizer: BAE, mirror: bool = False) -> NDArray[np.uint8]:
    pixels = np.stack([folder[index][0] for index in range(len(folder))])
    pixels = np.ascontiguousarray(pixels[:, :, ::-1] if mirror else pixels)
    return tokenizer.image_codes(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).numpy()


def match(codes: NDArray[np.uint8], expected: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return which expected code each code is; another batch size may round the odd bit differently."""
    distances = np.unpackbits(codes[:, None] ^ expected[None], axis=2).sum(axis=2)
    assert distances.min(axis=1).max() <= 1
    return distances.argmin(axis=1)


def checksums(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


# --- What is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "validation"])
def test_each_image_is_there_once_with_its_label(tmp_path: Path, images: Path, tokenizer: BAE, split: str) -> None:
    encode(images, tmp_path / "out", tokenizer)
    folder = ImageFolder(images, split, SIZE)
    codes, labels = read_all(tmp_path / "out", split)
    order = match(codes, codes_of(folder, tokenizer))
    assert sorted(order) == list(range(len(folder)))
    assert labels.tolist() == [folder[index][1] for index in order]
    assert order.tolist() != sorted(order), "the samples are not shuffled"


def test_the_manifest_says_what_it_was_made_from(tmp_path: Path, images: Path, tokenizer: BAE) -> None:
    manifest = encode(images, tmp_path / "out", tokenizer, seed=3)
    assert manifest == load_manifest(tmp_path / "out")
    assert manifest.classes == ("cat", "coffee", "rocket")
    assert (manifest.tokenizer_fingerprint, manifest.code_bits, manifest.grid, manifest.image_size) == (
        "ab12",
        16,
        (8, 8),
        (32, 32),
    )
    assert (manifest.seed, manifest.flip, manifest.images) == (3, False, {"train": 72, "validation": 12})
    assert [entry.samples for entry in manifest.files("train")] == [20, 20, 20, 12]
    verify_shards(tmp_path / "out")


def test_flip_adds_the_mirrored_training_images(tmp_path: Path, images: Path, tokenizer: BAE) -> None:
    manifest = encode(images, tmp_path / "out", tokenizer, flip=True)
    folder = ImageFolder(images, "train", SIZE)
    both = np.concatenate([codes_of(folder, tokenizer), codes_of(folder, tokenizer, mirror=True)])
    codes, labels = read_all(tmp_path / "out", "train")
    order = match(codes, both)
    assert sorted(order) == list(range(144))
    assert labels.tolist() == [folder[index % 72][1] for index in order]
    assert manifest.samples("validation") == 12
    assert manifest.images == {"train": 72, "validation": 12}


def test_the_seed_decides_the_order(tmp_path: Path, images: Path, tokenizer: BAE) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        encode(images, tmp_path / name, tokenizer, seed=seed)
    assert checksums(tmp_path / "first") == checksums(tmp_path / "again")
    first, other = (read_all(tmp_path / name, "train")[1] for name in ("first", "other"))
    assert sorted(first) == sorted(other)
    assert first.tolist() != other.tolist()


def test_without_validation_images_some_training_images_are_held_out(
    tmp_path: Path, own_images: Path, tokenizer: BAE, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(own_images / "validation")
    with caplog.at_level(logging.INFO):
        manifest = encode(own_images, tmp_path / "out", tokenizer)
    assert "has no validation images: 1 of its training images are held out" in caplog.text
    assert manifest.images == {"train": 71, "validation": 1}
    codes = np.concatenate([read_all(tmp_path / "out", split)[0] for split in ("train", "validation")])
    assert sorted(match(codes, codes_of(ImageFolder(own_images, "train", SIZE), tokenizer))) == list(range(72))


def test_progress_counts_the_samples(tmp_path: Path, images: Path, tokenizer: BAE) -> None:
    calls: list[tuple[int, int]] = []
    encode(images, tmp_path / "out", tokenizer, progress=lambda done, total: calls.append((done, total)))
    assert calls[:5] == [(0, 84), (8, 84), (16, 84), (20, 84), (28, 84)]  # a batch never crosses the end of a shard
    assert calls[-1] == (84, 84)


# --- Stopping and going on -------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
sys.path[:0] = [{tests!r}, {root!r}]
torch.set_num_threads(1)
from encoding import build_tokenizer, encode

def progress(done, total):
    if done > 50:  # in the third of four training shards
        os.kill(os.getpid(), signal.SIGKILL)

encode(Path({images!r}), Path({out!r}), build_tokenizer(), progress=progress)
"""


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, images: Path, tokenizer: BAE) -> None:
    out, tests = tmp_path / "killed", Path(__file__).parent
    code = KILLED.format(tests=str(tests), root=str(tests.parent.parent), images=str(images), out=str(out))
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(checksums(out)) == [
        "manifest.partial.json",
        *("train-000000.json", "train-000000.tar", "train-000001.json", "train-000001.tar"),
    ]
    kept = (out / "train-000001.tar").stat()

    calls: list[int] = []
    encode(images, out, tokenizer, progress=lambda done, total: calls.append(done))
    encode(images, tmp_path / "undisturbed", tokenizer)
    assert calls[0] == 40, "the two complete shards are kept"
    assert (out / "train-000001.tar").stat().st_mtime_ns == kept.st_mtime_ns
    assert checksums(out) == checksums(tmp_path / "undisturbed")


def test_no_moment_is_a_wrong_one_to_stop(
    tmp_path: Path, images: Path, tokenizer: BAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop before and after each rename, the moments between which the folder is the same, and go on each time."""
    encode(images, tmp_path / "undisturbed", tokenizer)
    rename, out, stops = os.replace, tmp_path / "out", 0

    def stop_before(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    def stop_after(source: Path, target: Path) -> None:
        rename(source, target)
        raise KeyboardInterrupt

    for number in range(100):
        left = [*[rename] * (number // 2), stop_before if number % 2 else stop_after]
        monkeypatch.setattr(os, "replace", lambda source, target, left=left: left.pop(0)(source, target))
        shutil.rmtree(out, ignore_errors=True)
        try:
            encode(images, out, tokenizer)
            break
        except KeyboardInterrupt:
            stops += 1
        monkeypatch.setattr(os, "replace", rename)
        encode(images, out, tokenizer)
        assert checksums(out) == checksums(tmp_path / "undisturbed")
    assert stops == 2 * (1 + 2 * 5 + 1)


def test_a_finished_folder_is_reused(
    tmp_path: Path, images: Path, tokenizer: BAE, caplog: pytest.LogCaptureFixture
) -> None:
    first = encode(images, tmp_path / "out", tokenizer)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    calls: list[int] = []
    with caplog.at_level(logging.INFO):
        assert encode(images, tmp_path / "out", tokenizer, progress=lambda done, total: calls.append(done)) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")} == before
    assert calls == []
    assert "84 of 84 samples are there already and are kept" in caplog.text


# --- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed is 0, not 1"),
        ({"flip": True}, "flip is False, not True"),
        ({"views": "ten-crop"}, "views is 'centre', not 'ten-crop'"),
    ],
)
def test_shards_made_otherwise_are_not_mixed(
    tmp_path: Path, images: Path, tokenizer: BAE, changes: dict[str, object], message: str
) -> None:
    encode(images, tmp_path / "out", tokenizer)
    with pytest.raises(ShardError, match=rf"the folder holds other shards \({message}\); choose another folder"):
        encode(images, tmp_path / "out", tokenizer, **changes)
    verify_shards(tmp_path / "out")


def test_shards_of_other_images_are_not_mixed(tmp_path: Path, own_images: Path, tokenizer: BAE) -> None:
    encode(own_images, tmp_path / "out", tokenizer)
    (own_images / "train" / "cat" / "000.png").unlink()
    with pytest.raises(ShardError, match=r"images is {'train': 72, 'validation': 12}, not {'train': 71"):
        encode(own_images, tmp_path / "out", tokenizer)


def test_an_unreadable_image_stops_the_work_and_loses_no_complete_shard(
    tmp_path: Path, own_images: Path, tokenizer: BAE
) -> None:
    path = own_images / "validation" / "coffee" / f"{TRAIN:03d}.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(ImageError, match=path.name):
        encode(own_images, tmp_path / "out", tokenizer)
    path.write_bytes(whole)
    calls: list[int] = []
    encode(own_images, tmp_path / "out", tokenizer, progress=lambda done, total: calls.append(done))
    assert calls == [72, 80, 84]

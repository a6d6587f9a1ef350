"""Any number of processes, killed and started again on any other number, leave the bytes of one undisturbed process."""

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from encoding import TRAIN, encode
from photographs import write_tiles
from trained_run import TINY

from elm_dist.checkpoint.tokenizer import save_tokenizer
from elm_dist.config import ImageSize
from elm_dist.config_file import load_config
from elm_dist.data.images import ImageFolder
from elm_dist.data.shards import ShardReader, load_manifest, verify_shards
from elm_dist.errors import ImageError
from elm_dist.tokenizers.bae import BAE

TESTS = Path(__file__).parent
ROOT = TESTS.parent.parent

PROCESS = """
import os, signal, sys
from pathlib import Path
import torch
sys.path[:0] = [{tests!r}, {root!r}]
torch.set_num_threads(1)
from encoding import build_tokenizer, encode

rank, world_size, last = map(int, sys.argv[1:])

def progress(done, total):
    if done >= last:
        os.kill(os.getpid(), signal.SIGKILL)

encode(Path({images!r}), Path({out!r}), build_tokenizer(), progress=progress, rank=rank, world_size=world_size)
"""


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def encode_together(images: Path, out: Path, tokenizer: BAE, world_size: int, **changes: object) -> None:
    """Encode as so many processes at once; threads stand for them, which share nothing but the folder."""
    with ThreadPoolExecutor(world_size) as pool:
        parts = [
            pool.submit(encode, images, out, tokenizer, rank=rank, world_size=world_size, **changes)
            for rank in range(world_size)
        ]
    made = [part.result() for part in parts]
    assert made == [load_manifest(out), *[None] * (world_size - 1)]


@pytest.fixture(scope="module")
def undisturbed(images: Path, tokenizer: BAE, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process leaves that nobody disturbed: four training shards and one of validation."""
    out = tmp_path_factory.mktemp("undisturbed")
    encode(images, out, tokenizer)
    return contents(out)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_the_number_of_processes_does_not_matter(
    tmp_path: Path, images: Path, tokenizer: BAE, undisturbed: dict[str, bytes], world_size: int
) -> None:
    encode_together(images, tmp_path / "out", tokenizer, world_size)
    assert contents(tmp_path / "out") == undisturbed


def test_killed_processes_are_replaced_by_another_number_of_them(
    tmp_path: Path, images: Path, tokenizer: BAE, undisturbed: dict[str, bytes]
) -> None:
    """Of two processes the second dies in its second shard, and the first, which waits for it, after that."""
    out = tmp_path / "out"
    code = PROCESS.format(tests=str(TESTS), root=str(ROOT), images=str(images), out=str(out))
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), "2", last], stderr=subprocess.PIPE)
        for rank, last in enumerate(("1000", "28"))
    ]
    killed = processes[1].communicate(timeout=60)
    assert processes[1].returncode == -signal.SIGKILL, killed
    with pytest.raises(subprocess.TimeoutExpired):
        processes[0].wait(timeout=2)
    processes[0].kill()
    processes[0].communicate(timeout=10)
    left = contents(out).keys()
    assert "manifest.json" not in left
    assert {"train-000001.tar", "train-000001.json"} <= left
    assert not {"train-000003.tar", "train-000003.json"} & left

    kept = (out / "train-000001.tar").stat()
    encode_together(images, out, tokenizer, world_size=3)
    assert contents(out) == undisturbed
    assert (out / "train-000001.tar").stat().st_mtime_ns == kept.st_mtime_ns


def test_torchrun_starts_the_command_on_several_processes(tmp_path: Path) -> None:
    images = write_tiles(tmp_path / "images", train=10, validation=2)
    config = load_config(TINY).tokenizer
    save_tokenizer(tmp_path / "tokenizer", BAE(config), config)
    options = ["tokenize", "--images", str(images), "--tokenizer", str(tmp_path / "tokenizer"), "--out"]
    many = [
        *(str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2"),
        *("-m", "elm_dist", *options, str(tmp_path / "many")),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(many, env=environment, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    for rank, samples in ((1, 40), (2, 8)):
        assert f"process {rank} of 2: {samples} of {samples} images, " in result.stderr
    subprocess.run([sys.executable, "-m", "elm_dist", *options, str(tmp_path / "one")], env=environment, check=True)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    verify_shards(tmp_path / "many")


# --- Broken images ---------------------------------------------------------------------------------------------------


@pytest.fixture
def broken_images(images: Path, tmp_path: Path) -> Path:
    """A copy of the images in which two cannot be read."""
    own = Path(shutil.copytree(images, tmp_path / "images"))
    (own / "train" / "cat" / "003.png").write_bytes(b"not an image")
    path = own / "train" / "rocket" / "001.png"
    path.write_bytes(path.read_bytes()[:100])
    return own


def test_broken_images_are_left_out_and_listed_whatever_the_number_of_processes(
    tmp_path: Path, broken_images: Path, tokenizer: BAE, caplog: pytest.LogCaptureFixture
) -> None:
    for world_size in (1, 3):
        encode_together(broken_images, tmp_path / str(world_size), tokenizer, world_size, max_broken=0.03, flip=True)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    out = tmp_path / "1"
    assert json.loads((out / "skipped.json").read_text()) == ["train/cat/003.png", "train/rocket/001.png"]
    assert "train/cat/003.png: this image cannot be read" in caplog.text
    made = load_manifest(out)
    assert (made.images["train"], made.samples("train"), made.samples("validation")) == (72, 140, 12)
    _, labels = ShardReader(out, made, "train").read(np.arange(140))
    assert np.bincount(labels).tolist() == [46, 48, 46]


@pytest.mark.parametrize("world_size", [1, 2])
def test_too_many_broken_images_stop_the_work(
    tmp_path: Path, broken_images: Path, tokenizer: BAE, world_size: int
) -> None:
    message = (
        r"images: 2 of 84 images cannot be read, such as train/cat/003\.png, but at most 1 may be left out; mend them "
        r"and run the same command again, or allow a larger share with --max-broken"
    )
    with pytest.raises(ImageError, match=message):
        encode_together(broken_images, tmp_path / "out", tokenizer, world_size, max_broken=0.02)
    assert not (tmp_path / "out" / "manifest.json").exists()

    calls: list[int] = []
    with pytest.raises(ImageError, match=message):  # not after another pass over all images
        encode(broken_images, tmp_path / "out", tokenizer, max_broken=0.02, progress=lambda *call: calls.append(call))
    assert len(calls) < 84 // 8


def test_mended_images_are_encoded_when_the_command_runs_again(
    tmp_path: Path, images: Path, broken_images: Path, tokenizer: BAE, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    encode(broken_images, out, tokenizer, max_broken=0.03)
    encode(broken_images, out, tokenizer, max_broken=0.03)
    assert "skipped.json" in contents(out)
    shutil.copytree(images, broken_images, dirs_exist_ok=True)
    encode(broken_images, out, tokenizer, max_broken=0.03)
    assert contents(out) == undisturbed
    assert len(ImageFolder(broken_images, "train", ImageSize(32, 32))) == 3 * TRAIN

"""How fast one process reads training samples: our loader, stock webdataset one by one, litdata, and np.memmap.

    python benchmarks/loader.py [--samples 204800]

All read the same codes of 512 bytes (256 positions of 16 bits) and labels, from memory that the system keeps, in micro-
batches of 256. Ours shuffles, drops classes and can resume at any sample; it reads one shard as `elm tokenize` cuts
them, and 64 smaller ones, because a batch of ImageNet comes from as many. webdataset has two entries of its tar for
each sample, reads in order and gathers batches; litdata shuffles and gathers batches; the memory map is shuffled by one
permutation of all samples. They take turns, because machines differ and so do their hours; figures are medians. How
many times as fast ours is counts CPU seconds, which other work on the machine hardly moves.

litdata asks for torchvision, which it does not need here and which would replace torch, so it is installed by itself:

    pip install -e '.[benchmarks]' && pip install --no-deps litdata==0.2.76
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
import webdataset

from elm_dist.data.loader import TokenLoader
from elm_dist.data.shards import Manifest
from elm_dist.data.writer import ShardWriter

CODE_BITS, GRID, CODE_BYTES = 16, 16, 512
BATCH = 256
ROUNDS = 5
MANY_SHARDS = 64
SMALL_SHARE = 10  # webdataset reads so many times fewer samples: it is that much slower
IMAGENET = 1_281_167  # training images
VIEWS = 10

Codes = np.ndarray
Labels = np.ndarray


class Contender(NamedTuple):
    name: str
    path: Path  # what it reads
    samples: int
    read: Callable[[], Iterator[int]]  # reads them once, yields how many it has read

    @property
    def sample_bytes(self) -> float:
        files = self.path.rglob("*.*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files) / self.samples


class Speed(NamedTuple):
    samples_per_second: float
    samples_per_cpu_second: float


def build_ours(directory: Path, codes: Codes, labels: Labels, shards: int) -> Contender:
    files = {"train": [f"train-{number:06d}.tar" for number in range(shards)], "validation": ["validation-000000.tar"]}
    plan = Manifest(
        tokenizer_fingerprint="random codes",
        code_bits=CODE_BITS,
        grid=GRID,
        image_size=256,
        record_rows=1024,
        classes=tuple(map(str, range(1000))),
        seed=0,
        flip=False,
        images={"train": len(codes), "validation": 1},
    )
    writer = ShardWriter(directory, plan)
    for file, *part in zip(files["train"], *(np.array_split(rows, shards) for rows in (codes, labels)), strict=True):
        writer.write(file, *part)
    writer.write("validation-000000.tar", codes[:1], labels[:1])
    writer.finish(files)
    loader = TokenLoader(
        directory, seed=0, global_batch_size=BATCH, micro_batch_size=BATCH, class_dropout=0.1, null_class=1000
    )
    steps = iter(range(sys.maxsize))  # a further epoch in each round, in an order of its own

    def read() -> Iterator[int]:
        for _ in range(len(codes) // BATCH):
            yield len(loader.train_micro_batch(next(steps), 0).labels)

    return Contender(f"elm-dist, {shards} shard{'s' * (shards > 1)}", directory, len(codes), read)


def build_webdataset(path: Path, codes: Codes, labels: Labels) -> Contender:
    with path.open("wb") as file, webdataset.TarWriter(file, mtime=0) as tar:
        for index, (code, label) in enumerate(zip(codes, labels, strict=True)):
            tar.write({"__key__": f"{index:09d}", "codes.npy": code, "cls": int(label)})

    def read() -> Iterator[int]:
        samples = webdataset.WebDataset(str(path), shardshuffle=False).decode().to_tuple("codes.npy", "cls")
        for batch, _ in samples.batched(BATCH):
            yield len(torch.from_numpy(np.stack(batch)))

    return Contender("webdataset, one sample by one", path, len(codes), read)


def build_litdata(directory: Path, codes: Codes, labels: Labels) -> Contender:
    from litdata import StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(directory), chunk_bytes="64MB")
    for index, sample in enumerate(zip(codes, labels.tolist(), strict=True)):
        writer[index] = sample
    writer.done()
    writer.merge()
    dataset = StreamingDataset(str(directory), shuffle=True, seed=0)

    def read() -> Iterator[int]:
        samples = (code for code, _ in dataset)  # its own iterator begins again after its end
        while batch := list(islice(samples, BATCH)):
            yield len(torch.from_numpy(np.stack(batch)))

    return Contender("litdata, shuffled", directory, len(codes), read)


def build_memmap(path: Path, codes: Codes, labels: Labels) -> Contender:
    rows = np.hstack([codes, labels[:, None].view(np.uint8)])
    rows.tofile(path)
    data = np.memmap(path, np.uint8, mode="r").reshape(rows.shape)

    def read() -> Iterator[int]:
        order = np.random.default_rng(0).permutation(len(data))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            batch = data[order[start : start + BATCH]]
            labels = np.ascontiguousarray(batch[:, CODE_BYTES:]).view(np.uint16)[:, 0].astype(np.int64)
            yield len(torch.from_numpy(labels))

    return Contender("np.memmap, shuffled", path, len(codes), read)


def measure(contender: Contender) -> Speed:
    """Return how fast it reads its samples once."""
    wall, cpu = time.perf_counter(), time.process_time()
    samples = sum(contender.read())
    return Speed(samples / (time.perf_counter() - wall), samples / (time.process_time() - cpu))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=204_800, help="codes of 512 bytes; 204,800 are one shard")
    count = parser.parse_args().samples
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    codes = random.integers(0, 256, (count, CODE_BYTES), dtype=np.uint8)
    labels = random.integers(0, 1000, count, dtype=np.uint16)
    with tempfile.TemporaryDirectory() as scratch:
        few = max(BATCH, count // SMALL_SHARE)
        contenders = [
            build_ours(Path(scratch) / "shard", codes, labels, 1),
            build_ours(Path(scratch) / "shards", codes, labels, MANY_SHARDS),
            build_webdataset(Path(scratch) / "samples.tar", codes[:few], labels[:few]),
            build_memmap(Path(scratch) / "rows.bin", codes, labels),
        ]
        if find_spec("litdata"):
            contenders.append(build_litdata(Path(scratch) / "litdata", codes, labels))
        turns = [[measure(contender) for contender in contenders] for _ in range(ROUNDS)]
        report(contenders, turns)
    if not find_spec("litdata"):
        print("litdata is not installed and was left out; the head of this file says how to install it")


def report(contenders: list[Contender], turns: list[list[Speed]]) -> None:
    headings = ("samples/s", "per CPU s", "ours is", "bytes each", "ImageNet", "x 10 views", "epoch")
    print(f"{'one process':<31}" + "".join(f"{heading:>12}" for heading in headings))
    for number, contender in enumerate(contenders):
        wall = median(turn[number].samples_per_second for turn in turns)
        cpu = median(turn[number].samples_per_cpu_second for turn in turns)
        ratio = median(turn[0].samples_per_cpu_second / turn[number].samples_per_cpu_second for turn in turns)
        disk = contender.sample_bytes * IMAGENET / 1e9
        print(
            f"{contender.name:<31}{wall:>12,.0f}{cpu:>12,.0f}{ratio:>11.2f}x{contender.sample_bytes:>12,.0f}"
            f"{disk:>9,.2f} GB{disk * VIEWS:>9,.1f} GB{IMAGENET / wall:>10,.1f} s"
        )
    print(
        f"ImageNet: disk for {IMAGENET:,} images, of one view and of ten. Epoch: the time to read so many samples once."
    )


if __name__ == "__main__":
    main()

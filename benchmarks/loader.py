"""How fast one process reads training samples: our loader, stock webdataset one by one, and np.memmap.

    python benchmarks/loader.py [--samples 204800]

All three read codes of 512 bytes (256 x 256 images at 16 bits a code) and labels from memory that the system keeps, in
micro-batches of 256. Ours shuffles, drops classes and can resume at any sample; webdataset has two entries of its tar
for each sample, reads in order and gathers batches; the memory map is shuffled by one permutation of all samples. They
take turns in one run, because machines differ and so do their hours.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import webdataset

from elm_dist.data.loader import TokenLoader
from elm_dist.data.shards import Manifest
from elm_dist.data.writer import ShardWriter

CODE_BITS, GRID, CODE_BYTES = 16, 16, 512
BATCH = 256
ROUNDS = 3
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


def build_ours(directory: Path, codes: Codes, labels: Labels) -> Contender:
    files = {"train": ["train-000000.tar"], "validation": ["validation-000000.tar"]}
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
    writer.write("train-000000.tar", codes, labels)
    writer.write("validation-000000.tar", codes[:1], labels[:1])
    writer.finish(files)
    loader = TokenLoader(
        directory, seed=0, global_batch_size=BATCH, micro_batch_size=BATCH, class_dropout=0.1, null_class=1000
    )
    steps = iter(range(sys.maxsize))  # a further epoch in each round, in an order of its own

    def read() -> Iterator[int]:
        for _ in range(len(codes) // BATCH):
            yield len(loader.train_micro_batch(next(steps), 0).labels)

    return Contender("elm-dist", directory, len(codes), read)


def build_webdataset(path: Path, codes: Codes, labels: Labels) -> Contender:
    with path.open("wb") as file, webdataset.TarWriter(file, mtime=0) as tar:
        for index, (code, label) in enumerate(zip(codes, labels, strict=True)):
            tar.write({"__key__": f"{index:09d}", "codes.npy": code, "cls": int(label)})

    def read() -> Iterator[int]:
        samples = webdataset.WebDataset(str(path), shardshuffle=False).decode().to_tuple("codes.npy", "cls")
        for batch, _ in samples.batched(BATCH):
            yield len(torch.from_numpy(np.stack(batch)))

    return Contender("webdataset, one sample by one", path, len(codes), read)


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


def best(speeds: list[Speed]) -> Speed:
    """Return the best of each: what else a machine does only ever slows it down."""
    return Speed(*(max(values) for values in zip(*speeds, strict=True)))


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
            build_ours(Path(scratch) / "shards", codes, labels),
            build_webdataset(Path(scratch) / "samples.tar", codes[:few], labels[:few]),
            build_memmap(Path(scratch) / "rows.bin", codes, labels),
        ]
        speeds: list[list[Speed]] = [[] for _ in contenders]
        for _ in range(ROUNDS):
            for contender, measured in zip(contenders, speeds, strict=True):
                measured.append(measure(contender))
        report(contenders, [best(measured) for measured in speeds])


def report(contenders: list[Contender], speeds: list[Speed]) -> None:
    ours = speeds[0].samples_per_second
    headings = ("samples/s", "per CPU s", "ours is", "bytes each", "ImageNet", "epoch")
    print(f"{'one process':<34}" + "".join(f"{heading:>12}" for heading in headings))
    for contender, speed in zip(contenders, speeds, strict=True):
        size, ratio = contender.sample_bytes, ours / speed.samples_per_second
        print(
            f"{contender.name:<34}{speed.samples_per_second:>12,.0f}{speed.samples_per_cpu_second:>12,.0f}{ratio:>11.2f}x"
            f"{size:>12,.0f}{size * IMAGENET * VIEWS / 1e9:>9,.1f} GB{IMAGENET / speed.samples_per_second:>10,.1f} s"
        )
    print(f"ImageNet: disk for ten views of {IMAGENET:,} images. Epoch: the time to read so many samples once.")


if __name__ == "__main__":
    main()

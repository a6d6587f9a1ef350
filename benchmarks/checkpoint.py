"""How long a checkpoint stops the training, and how near it writes to the speed of the disk.

    python benchmarks/checkpoint.py [--hidden-size 704] [--rounds 7] [--directory DIR]

One process with AdamW and the averaged weights, 16 bytes a parameter. In each round take turns: a synchronous save, an
asynchronous one, and the same number of bytes written to the same disk and synced, by the plainest loop there is. The
stall is what `save` takes; the asynchronous one is then awaited, so none of its work is hidden in what follows.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from elm_dist.checkpoint.latest import latest_step
from elm_dist.checkpoint.store import Checkpoint, CheckpointStore
from elm_dist.config import CheckpointConfig, Config
from elm_dist.files import sync
from elm_dist.parallel.environment import process_environment
from elm_dist.randomness import derive_seed

BLOCKS = 8
CHUNK = 2**24


class Batch(NamedTuple):
    codes: Tensor
    labels: Tensor


class Round(NamedTuple):
    """Seconds."""

    synchronous: float
    stall: float
    behind: float  # from the start of the asynchronous save until it is on disk
    raw: float


def build_config(directory: Path, hidden_size: int) -> Config:
    """Return a model of `BLOCKS` blocks on images of 4 x 4 codes, whose steps are short."""
    return Config.model_validate(
        {
            "run": {"directory": directory},
            "tokenizer": {"directory": "unused", "image_size": 64, "attention_resolutions": [4]},
            "data": {"shards": "unused"},
            "model": {
                "num_layers": BLOCKS,
                "hidden_size": hidden_size,
                "num_heads": hidden_size // 64,
                "subtokens": 2,
                "subtoken_bits": 8,
            },
            "schedule": {"global_batch_size": 2, "micro_batch_size": 2},
            "parallel": {"precision": "fp32", "zero_stage": 1},
        }
    )


def random_batch(step: int, index: int) -> Batch:
    generator = torch.Generator().manual_seed(derive_seed(0, "benchmark", step, index))
    return Batch(
        torch.randint(0, 256, (2, 32), dtype=torch.uint8, generator=generator), torch.zeros(2, dtype=torch.int64)
    )


def seconds(task: Callable[[], object]) -> float:
    begin = time.perf_counter()
    task()
    return time.perf_counter() - begin


def write_raw(path: Path, data: memoryview) -> None:
    with path.open("wb") as file:
        for begin in range(0, len(data), CHUNK):
            file.write(data[begin : begin + CHUNK])
    sync(path)


def checkpoint_bytes(directory: Path) -> int:
    step = latest_step(directory)
    assert step is not None
    return sum(entry["bytes"] for entry in Checkpoint(directory / f"step_{step:08d}").files.values())


def report(parameters: int, size: int, rounds: list[Round]) -> None:
    def middle(values: list[float]) -> str:
        low, *_, high = sorted(values)
        return f"{statistics.median(values):>8.2f}   {low:.2f} to {high:.2f}"

    shares = [each.stall / each.synchronous for each in rounds]
    bandwidths = [each.raw / each.synchronous for each in rounds]
    print(f"{parameters:,} parameters, {size / 1e6:,.0f} MB a checkpoint, {len(rounds)} rounds: median, and the range")
    print(f"synchronous save, s                 {middle([each.synchronous for each in rounds])}")
    print(f"stall of an asynchronous save, s    {middle([each.stall for each in rounds])}")
    print(f"until that is on disk, s            {middle([each.behind for each in rounds])}")
    print(f"the same bytes, raw and synced, s   {middle([each.raw for each in rounds])}")
    print(f"stall / synchronous save            {middle(shares)}   target: at most 0.15")
    print(f"synchronous save / raw bandwidth    {middle(bandwidths)}   target: at least 0.70")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden-size", type=int, default=704, help="a multiple of 64; 704 is 52 million parameters")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", type=Path, help="where to write; a temporary folder by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
        measure(Path(scratch), arguments.hidden_size, arguments.rounds)


def measure(scratch: Path, hidden_size: int, rounds: int) -> None:
    config, environment = build_config(scratch / "run", hidden_size), process_environment()
    environment.choose_device("auto")
    # Heavy, and to be imported after the device is chosen.
    from elm_dist.parallel.build import build_engine, connect, disconnect
    from elm_dist.training.ema import Ema
    from elm_dist.training.optimizer import build_optimizer, initial_state

    connect(config, environment)
    engine = build_engine(config, environment, lambda named: build_optimizer(named, config.optimizer))
    engine.prepare_optimizer(lambda master: initial_state(master, config.optimizer))
    ema = Ema(engine.state, config.optimizer.ema_decay)
    stores = {
        asynchronous: CheckpointStore(scratch / "run", CheckpointConfig(keep_last=1, asynchronous=asynchronous))
        for asynchronous in (False, True)
    }
    engine.train_step(0, random_batch)
    ema.update()
    for store in stores.values():
        store.save(engine, 0, {})  # takes the host memory
        store.wait()
    raw = torch.randint(0, 256, (checkpoint_bytes(scratch / "run"),), dtype=torch.uint8)
    measured: list[Round] = []
    for step in range(1, 2 * rounds, 2):
        synchronous = seconds(lambda step=step: stores[False].save(engine, step, {}))
        stall = seconds(lambda step=step: stores[True].save(engine, step + 1, {}))
        behind = stall + seconds(stores[True].wait)
        written = seconds(lambda: write_raw(scratch / "raw", raw.numpy().data))
        (scratch / "raw").unlink()
        measured.append(Round(synchronous, stall, behind, written))
    parameters = sum(parameter.numel() for _, parameter in engine.named_parameters())
    report(parameters, len(raw), measured)
    disconnect()


if __name__ == "__main__":
    main()

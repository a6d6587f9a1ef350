"""One process of small trainings that measures the memory they take; started by `processes.py`, once per rank.

Usage: memory_worker.py OUT_DIRECTORY CASES_JSON. Each case is {"name", "overrides"}; rank r writes the bytes by which
its resident set grew at its height, from before the model was built, to OUT_DIRECTORY/<name>.rank<r>.json.
"""

import ctypes
import gc
import json
import re
import sys
from pathlib import Path

import torch
from layout_worker import TINY, random_batches

from elm_dist.config_file import load_config
from elm_dist.parallel.build import build_engine, connect, disconnect
from elm_dist.parallel.environment import process_environment
from elm_dist.training.ema import Ema
from elm_dist.training.optimizer import build_optimizer, initial_state

STEPS = 2  # the second has everything that lasts: moments, averages, buckets
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of mallopt


def resident(kind: str) -> int:
    """Return the bytes of this process's resident set: VmRSS, now, or VmHWM, at its height."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, kind
    return int(found[1]) * 1024


def begin() -> int:
    """Forget the height so far and return what is resident now, when nothing of an earlier case is."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def grow(overrides: list[str]) -> int:
    """Train, and return by how many bytes this process grew."""
    config, before = load_config(TINY, overrides), begin()
    engine = build_engine(config, process_environment(), lambda named: build_optimizer(named, config.optimizer))
    engine.prepare_optimizer(lambda master: initial_state(master, config.optimizer))
    ema, source = Ema(engine.state, config.optimizer.ema_decay), random_batches(config)
    for step in range(STEPS):
        engine.train_step(step, source)
        ema.update()
    return resident("VmHWM") - before


def main() -> None:
    directory, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    libc = ctypes.CDLL("libc.so.6")  # what is freed goes back at once, as a GPU's allocator has it for others
    libc.mallopt(MMAP_THRESHOLD, 1 << 16)
    libc.mallopt(TRIM_THRESHOLD, 1 << 16)
    torch.set_num_threads(1)
    environment = process_environment()
    connect(load_config(TINY, cases[0]["overrides"]), environment)
    grow([])  # the libraries' own first-time memory
    for case in cases:
        found = grow(case["overrides"])
        (directory / f"{case['name']}.rank{environment.rank}.json").write_text(json.dumps(found))
    disconnect()


if __name__ == "__main__":
    main()

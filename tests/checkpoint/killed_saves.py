"""Kills processes that save, at random moments and very often, and looks at what is left each time.

Usage: killed_saves.py DIRECTORY TRIALS SEED. In each trial two processes go on from the newest checkpoint and save one
step after the other as fast as they can; each tensor is full of the number of the step. One is killed with signal 9,
and a little later the other, as by a launcher. Processes are forked: importing torch each time would take hours.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

from one_process import Divided, OneProcess

from elm_dist.checkpoint.store import Checkpoint, CheckpointStore, checkpoint_steps, newest_good
from elm_dist.config import CheckpointConfig

NAMES = [f"layer_{index}.weight" for index in range(4)]
RANKS = 2
context = multiprocessing.get_context("fork")


def save_for_ever(directory: Path, rank: int, barrier: "multiprocessing.synchronize.Barrier") -> None:
    state = Divided(kinds=["weights", "ema"], names=NAMES, rows=2000, part=rank, parts=RANKS)
    process = OneProcess(state, rank, RANKS, barrier.wait)
    store = CheckpointStore(directory, CheckpointConfig(keep_last=2), patience=5)
    newest = newest_good(directory)
    step = newest.step if newest else 0
    while True:
        step += 1
        for values in state.values.values():
            values.fill_(step)
        store.save(process, step, {})


def check(directory: Path) -> int:
    """Return the newest step, after every checkpoint that has a name was found to be whole and of one step."""
    for step in checkpoint_steps(directory):
        checkpoint = Checkpoint(directory / f"step_{step:08d}")
        checkpoint.verify(checkpoint.files)
        for kind in ("weights", "ema"):
            for name in NAMES:
                assert (checkpoint.read(kind, name, checkpoint.shapes[name]) == step).all(), (step, kind, name)
    steps = checkpoint_steps(directory)
    latest = directory / "latest"
    if steps:
        # `latest` is changed after the folder has its name: a kill between the two leaves it one behind.
        named = int(latest.read_text().removeprefix("step_")) if latest.exists() else 0
        assert named in (*steps, 0), (named, steps)
    newest = newest_good(directory)
    assert (newest.step if newest else 0) == max(steps, default=0)
    return max(steps, default=0)


def main(directory: Path, trials: int, seed: int) -> None:
    chance = random.Random(seed)
    step = saved = 0
    for trial in range(trials):
        barrier = context.Barrier(RANKS)
        ranks = [context.Process(target=save_for_ever, args=(directory, rank, barrier)) for rank in range(RANKS)]
        for process in ranks:
            process.start()
        time.sleep(chance.uniform(0, 0.25))
        chance.shuffle(ranks)
        for process in ranks:
            os.kill(process.pid, signal.SIGKILL)
            time.sleep(chance.choice((0, 0.02)))
        for process in ranks:
            process.join()
        newest = check(directory)
        assert newest >= step, (trial, newest, step)
        saved += newest > step
        step = newest
    assert saved > trials / 4, f"only {saved} of {trials} processes were killed after they had saved anything"
    print(f"{trials} trials, {step} checkpoints")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

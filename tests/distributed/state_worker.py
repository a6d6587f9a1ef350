"""One process of small trainings that counts the bytes of its tensors; started by `processes.py`, once per rank.

Usage: state_worker.py OUT_DIRECTORY CASES_JSON. Each case is {"name", "overrides"}; rank 0 writes what it holds between
two passes of the second step to OUT_DIRECTORY/<name>.json: bytes of all storages that came with the engine, the
largest first, and the engine's parameters.
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from layout_worker import TINY, random_batches

from elm_dist.config_file import load_config
from elm_dist.model.cost import count_parameters
from elm_dist.parallel.build import build_engine, connect, disconnect
from elm_dist.parallel.environment import process_environment
from elm_dist.training.ema import Ema
from elm_dist.training.optimizer import build_optimizer, initial_state


def storages() -> dict[int, int]:
    """Return the bytes of every tensor's storage by its address."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    tensors += [thing.grad for thing in tensors if thing.is_leaf and thing.grad is not None]
    found = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in found if storage.nbytes()}


def count(overrides: list[str]) -> dict[str, Any]:
    config = load_config(TINY, overrides)
    before = storages()
    engine = build_engine(config, process_environment(), lambda named: build_optimizer(named, config.optimizer))
    engine.prepare_optimizer(lambda master: initial_state(master, config.optimizer))
    ema, batches = Ema(engine.state, config.optimizer.ema_decay), random_batches(config)
    counted: list[int] = []

    def source(step: int, index: int):
        if step == 1 and index % engine.layout.accumulation == engine.layout.accumulation - 1:
            counted[:] = sorted((size for at, size in storages().items() if at not in before), reverse=True)
        return batches(step, index)

    for step in range(2):
        engine.train_step(step, source)
        ema.update()
    return {"sizes": counted, "parameters": count_parameters(config.model, config.tokenizer.grid)}


def main() -> None:
    directory, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    environment = process_environment()
    for index, case in enumerate(cases):
        if index == 0:
            connect(load_config(TINY, case["overrides"]), environment)
        facts = count(case["overrides"])
        if environment.rank == 0:
            (directory / f"{case['name']}.json").write_text(json.dumps(facts))
    disconnect()


if __name__ == "__main__":
    main()

"""One process of trainings: at step 1 the loss of the last replica is not a number, and in the end a bit of it flips.

Usage: health_worker.py OUT_DIRECTORY CASES_JSON. Each case is {"name", "overrides"}; rank r writes what it saw to
OUT_DIRECTORY/<name>.rank<r>.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from layout_worker import TINY, gather_all, random_batches
from torch import Tensor

from elm_dist.config import Config
from elm_dist.config_file import load_config
from elm_dist.model.loss import CodeLoss
from elm_dist.parallel.build import build_engine, connect, disconnect
from elm_dist.parallel.environment import process_environment
from elm_dist.training.optimizer import build_optimizer, initial_state

ILL_STEP = 1
is_ill = False
compute_loss = CodeLoss.__call__


def compute_ill_loss(self: CodeLoss, logits: Tensor, packed: Tensor) -> Tensor:
    loss = compute_loss(self, logits, packed)
    return loss * torch.nan if is_ill else loss


def train_case(config: Config) -> dict[str, Any]:
    global is_ill
    engine = build_engine(config, process_environment(), lambda named: build_optimizer(named, config.optimizer))
    engine.prepare_optimizer(lambda master: initial_state(master, config.optimizer))
    source, is_last_replica = random_batches(config), engine.layout.replica == engine.layout.replicas - 1
    skipped, unchanged, seconds = [], [], []
    for step in range(4):
        before = gather_all(engine)
        is_ill = step == ILL_STEP and is_last_replica
        result = engine.train_step(step, source)
        after = gather_all(engine)
        skipped.append(result.is_skipped)
        unchanged.append(all(torch.equal(before[name], after[name]) for name in before))
        seconds.append(result.forward_seconds)
    equal = engine.find_divergence()
    if is_last_replica:
        parameter = next(p for _, p in engine.named_parameters() if p.ndim == 2 or hasattr(p, "ds_id"))
        if not hasattr(parameter, "ds_id"):
            parameter.data.view(torch.int16)[0, 0] ^= 1
    return {
        "skipped": skipped,
        "unchanged": unchanged,
        "forward_seconds": seconds,
        "gathered": engine.gather(10.0 + engine.layout.rank),
        "divergence": [equal, engine.find_divergence()],
    }


def main() -> None:
    out, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    CodeLoss.__call__ = compute_ill_loss
    environment = process_environment()
    connect(load_config(TINY), environment)
    for case in cases:
        facts = train_case(load_config(TINY, case["overrides"]))
        (out / f"{case['name']}.rank{environment.rank}.json").write_text(json.dumps(facts))
    disconnect()


if __name__ == "__main__":
    main()

"""One process of one link of a chain of layouts: resumes a run, saves it again as it is, and trains on.

Usage: chain_worker.py CASES_JSON. Each case is {"overrides", "again"}: what to lay over tiny_run.yaml, and a folder for
what was loaded. Cases run one after the other in the same processes, which cost seconds to start.
"""

import json
import sys
from pathlib import Path

import torch

from elm_dist.checkpoint.store import CheckpointStore
from elm_dist.config import CheckpointConfig
from elm_dist.config_file import load_config
from elm_dist.model.kernels import PLAIN
from elm_dist.parallel.build import connect, disconnect
from elm_dist.parallel.environment import process_environment
from elm_dist.training.trainer import Trainer

TINY = Path(__file__).parent.parent / "tiny_run.yaml"


def main() -> None:
    torch.set_num_threads(1)
    cases, environment = json.loads(sys.argv[1]), process_environment()
    configs = [load_config(TINY, case["overrides"]) for case in cases]
    connect(configs[0], environment)
    for case, config in zip(cases, configs, strict=True):
        trainer = Trainer(config, environment, PLAIN)
        if trainer.step:
            again = CheckpointStore(Path(case["again"]), CheckpointConfig(keep_last=100))
            again.save(trainer.engine, trainer.step, {"samples_seen": 0})
            again.wait()
        trainer.run()
    disconnect()


if __name__ == "__main__":
    main()

"""One process that begins runs with the weights of others; started by `processes.py`, once per rank.

Usage: initial_weights_worker.py OUT_DIRECTORY CASES_JSON. Each case is {"name", "overrides", "kind"}: of the kind
"save" it writes a checkpoint of step 0, of "begin" it begins a run, of "resume" it makes the trainer of a run that is
there. Rank r writes what it saw to OUT_DIRECTORY/<name>.rank<r>.safetensors and .json.
"""

import json
import sys
from pathlib import Path
from typing import Any

from layout_worker import gather_all
from safetensors.torch import save_file
from torch import Tensor

from elm_dist.checkpoint.store import CheckpointStore
from elm_dist.config import Config
from elm_dist.config_file import dump_config, load_config
from elm_dist.errors import CheckpointError
from elm_dist.model.kernels import PLAIN
from elm_dist.parallel.build import build_engine, connect, disconnect
from elm_dist.parallel.engine import Engine
from elm_dist.parallel.environment import process_environment
from elm_dist.training.initial_weights import lay_initial_weights
from elm_dist.training.optimizer import build_optimizer, initial_state
from elm_dist.training.trainer import Trainer

TINY_RUN = Path(__file__).parents[1] / "tiny_run.yaml"


def build(config: Config) -> Engine:
    engine = build_engine(config, process_environment(), lambda named: build_optimizer(named, config.optimizer))
    engine.prepare_optimizer(lambda master: initial_state(master, config.optimizer))
    return engine


def save(config: Config) -> tuple[dict[str, Any], dict[str, Tensor]]:
    engine = build(config)
    with CheckpointStore(config.run.directory / "checkpoints", config.checkpoint) as store:
        store.save(engine, 0, {"data": "none", "samples_seen": 0})
    engine.barrier()
    (config.run.directory / "config.yaml").write_text(dump_config(config))
    return {}, {}


def begin(config: Config) -> tuple[dict[str, Any], dict[str, Tensor]]:
    engine = build(config)
    try:
        lay_initial_weights(engine, config)
    except CheckpointError as error:
        return {"error": str(error)}, {}
    computing = {f"computing/{name}": parameter.detach().clone() for name, parameter in engine.named_parameters()}
    return {}, gather_all(engine) | (computing if config.parallel.zero_stage < 3 else {})


def resume(config: Config) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return {"step": Trainer(config, process_environment(), PLAIN).step}, {}


def main() -> None:
    out, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    environment = process_environment()
    connect(load_config(TINY_RUN), environment)
    for case in cases:
        config = load_config(TINY_RUN, case["overrides"])
        facts, tensors = {"save": save, "begin": begin, "resume": resume}[case["kind"]](config)
        written = out / f"{case['name']}.rank{environment.rank}"
        save_file(tensors, f"{written}.safetensors")
        Path(f"{written}.json").write_text(json.dumps(facts))
    disconnect()


if __name__ == "__main__":
    main()

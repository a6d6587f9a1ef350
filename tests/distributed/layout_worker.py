"""One process of a small training run on a given layout; started by `processes.py`, once per rank.

Usage: layout_worker.py OUT_DIRECTORY CASES_JSON. Each case is {"name", "overrides", "steps"}; rank r writes what it saw
of it to OUT_DIRECTORY/<name>.rank<r>.safetensors and .json.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from elm_dist.config import Config
from elm_dist.config_file import load_config
from elm_dist.parallel.engine import Engine, build_engine, connect, disconnect
from elm_dist.parallel.environment import process_environment
from elm_dist.randomness import derive_seed
from elm_dist.training.ema import Ema
from elm_dist.training.optimizer import build_optimizer, initial_state

TINY = Path(__file__).parent / "tiny.yaml"


class Batch(NamedTuple):
    codes: Tensor
    labels: Tensor


def random_batches(config: Config):
    """Return a source of codes that follow from (step, index) alone."""
    size, positions = config.schedule.micro_batch_size, config.tokenizer.positions
    packed = -(-positions * config.tokenizer.code_bits // 8)

    def source(step: int, index: int) -> Batch:
        generator = torch.Generator().manual_seed(derive_seed(7, "test batch", step, index))
        codes = torch.randint(0, 256, (size, packed), dtype=torch.uint8, generator=generator)
        return Batch(codes, torch.randint(0, config.model.num_classes + 1, (size,), generator=generator))

    return source


def train_case(config: Config, steps: int, out: Path, rank: int) -> None:
    engine = build_engine(config, process_environment(), lambda named: build_optimizer(named, config.optimizer))
    engine.prepare_optimizer(lambda master: initial_state(master, config.optimizer))
    ema, source = Ema(engine.state, config.optimizer.ema_decay), random_batches(config)
    losses, norms = [], []
    for step in range(steps):
        result = engine.train_step(step, source)
        ema.update()
        losses.append(list(result.head_losses))
        norms.append(result.grad_norm)
    validation = engine.evaluate(1, source).loss
    save_file(gather_all(engine), out.with_suffix(f".rank{rank}.safetensors"))
    facts = {"losses": losses, "norms": norms, "validation": validation, "kinds": engine.state.kinds}
    out.with_suffix(f".rank{rank}.json").write_text(json.dumps(facts))


def gather_all(engine: Engine) -> dict[str, Tensor]:
    state = engine.state
    return {f"{kind}/{name}": state.gather(kind, name).cpu() for kind in state.kinds for name in state.names}


def main() -> None:
    out, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    environment = process_environment()
    connect(load_config(TINY), environment)
    for case in cases:
        train_case(load_config(TINY, case["overrides"]), case["steps"], out / case["name"], environment.rank)
    disconnect()


if __name__ == "__main__":
    main()

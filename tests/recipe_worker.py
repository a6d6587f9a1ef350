"""One process that takes a training step of each recipe, made small; started once for all by `test_recipes.py`.

Usage: recipe_worker.py OUT_DIRECTORY RECIPE...; writes steps.json: for each recipe its code bits, the loss of the first
step, and that of the same images after it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from token_shards import write_token_shards

from elm_dist.config import Config
from elm_dist.config_file import load_config
from elm_dist.data.loader import TokenLoader, load_tokens
from elm_dist.parallel.build import build_engine, connect, disconnect
from elm_dist.parallel.environment import process_environment
from elm_dist.training.optimizer import build_optimizer, initial_state

SMALL = [
    *("model.num_layers=2", "model.hidden_size=32", "model.num_heads=4", "optimizer.learning_rate=1e-2"),
    *("schedule.global_batch_size=4", "schedule.micro_batch_size=2"),
    *("parallel.device=cpu", "parallel.precision=fp32", "parallel.pipeline_stages=1"),
]


def load_small(recipe: str) -> Config:
    """Return the recipe with two narrow layers and, where images are large, a grid of 4 x 4."""
    is_large = load_config(recipe).tokenizer.positions > 64
    return load_config(recipe, [*SMALL, "tokenizer.image_size=64"] if is_large else SMALL)


def open_shards(config: Config, directory: Path) -> TokenLoader:
    """Return the loader of random codes as the recipe's tokenizer would give them."""
    bits, positions = config.tokenizer.code_bits, config.tokenizer.positions
    payload = "probabilities" if config.data.shards.name == "probabilities" else "bits"
    shards = directory / f"{bits}_{positions}_{payload}"
    if not shards.exists():
        codes = np.random.default_rng(0).integers(0, 2**bits, (8, positions))
        write_token_shards(shards, codes, codes[:4], bits, payload=payload)
    return load_tokens(
        config.model_copy(update={"data": config.data.model_copy(update={"shards": shards})}),
        global_batch_size=config.schedule.global_batch_size,
        micro_batch_size=config.schedule.micro_batch_size,
        class_dropout=config.data.class_dropout,
        verify=False,
    )


def take_step(config: Config, loader: TokenLoader) -> tuple[float, float]:
    """Return the loss of the first step, and of the same images after it."""
    engine = build_engine(config, process_environment(), lambda named: build_optimizer(named, config.optimizer))
    engine.prepare_optimizer(lambda master: initial_state(master, config.optimizer))
    first = engine.train_step(0, loader.train_micro_batch).loss
    return first, engine.evaluate(1, loader.train_micro_batch).loss


def main() -> None:
    out, recipes = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    connect(load_small(recipes[0]), process_environment())
    steps = {}
    for recipe in recipes:
        config = load_small(recipe)
        steps[recipe] = config.model.subtoken_bits, *take_step(config, open_shards(config, out))
    (out / "steps.json").write_text(json.dumps(steps))
    disconnect()


if __name__ == "__main__":
    main()

"""One process of a small training run on a given layout; started by `processes.py`, once per rank.

Usage: layout_worker.py OUT_DIRECTORY CASES_JSON. Each case is {"name", "overrides", "steps", "is_shuffled"}; rank r
writes what it saw of it to OUT_DIRECTORY/<name>.rank<r>.safetensors and .json. Where it is shuffled, the stage that
computes the loss reads micro-batches in another order than the stage that embeds them.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from elm_dist.config import Config, SamplingConfig
from elm_dist.config_file import load_config
from elm_dist.errors import TrainingError
from elm_dist.model.elm import DecoderStep, Drawn, code_shape
from elm_dist.model.masking import row_bytes
from elm_dist.parallel.build import build_engine, connect, disconnect
from elm_dist.parallel.engine import Engine
from elm_dist.parallel.environment import process_environment
from elm_dist.randomness import derive_seed
from elm_dist.sampling.draw import draw_codes
from elm_dist.training.ema import Ema
from elm_dist.training.optimizer import build_optimizer, initial_state

TINY = Path(__file__).parent / "tiny.yaml"


class Batch(NamedTuple):
    codes: Tensor
    labels: Tensor


def random_batches(config: Config):
    """Return a source of codes that follow from (step, index) alone."""
    size = config.schedule.micro_batch_size
    packed = row_bytes(config.model, code_shape(config.model, config.tokenizer.grid))

    def source(step: int, index: int) -> Batch:
        generator = torch.Generator().manual_seed(derive_seed(7, "test batch", step, index))
        codes = torch.randint(0, 256, (size, packed), dtype=torch.uint8, generator=generator)
        return Batch(codes, torch.randint(0, config.model.num_classes + 1, (size,), generator=generator))

    return source


def train_case(config: Config, steps: int, is_shuffled: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    engine = build_engine(config, process_environment(), lambda named: build_optimizer(named, config.optimizer))
    engine.prepare_optimizer(lambda master: initial_state(master, config.optimizer))
    ema, batches = Ema(engine.state, config.optimizer.ema_decay), random_batches(config)

    def source(step: int, index: int) -> Batch:
        return batches(step, index ^ 1 if is_shuffled and engine.layout.has_last_part else index)

    losses, norms, bubbles = [], [], []
    for step in range(steps):
        try:
            result = engine.train_step(step, source)
        except TrainingError as error:
            return {"error": str(error), "step": step}, {}
        ema.update()
        losses.append(list(result.head_losses))
        norms.append(result.grad_norm)
        bubbles.append(result.bubble)
    facts = {
        "losses": losses,
        "norms": norms,
        "bubbles": bubbles,
        "validation": engine.evaluate(1, source).loss,
        "decoded": decode(engine) if config.model.modelling == "autoregressive" else uncovered(engine),
        "drawn": {lookahead: draw(engine, config, lookahead) for lookahead in (1, 4)},
        "memory": engine.peak_memory(),
    }
    return facts, gather_all(engine)


def decode(engine: Engine) -> list[list[float]]:
    """Return the largest logit of each of two images at the first positions, each code being what was likeliest."""
    step, x, found = engine.build_decoder(2), torch.tensor([0, 3], device=engine.device), []
    for position in range(4):
        values, x = likeliest(engine, step, x, position)
        found.append(values.flatten().tolist())
    prefilled = engine.build_decoder(2)
    prefilled(torch.tensor([0, 3], device=engine.device), 0)
    values, _ = likeliest(engine, prefilled, torch.cat([x, x], dim=1)[1:], 1, row=1)  # two positions, the second image
    return [*found, values.flatten().tolist()]


def likeliest(engine: Engine, step: DecoderStep, x: Tensor, position: int, row: int = 0) -> tuple[Tensor, Tensor]:
    """Return the largest logit of each sub-token, and which that is, (rows, 1, subtokens) each."""
    values, ids = step(x, position, row).float().max(dim=3)
    while ids.shape[2] < engine.shape.subtokens:
        next_values, next_ids = step(Drawn(ids), position, row).float().max(dim=3)
        values, ids = torch.cat([values, next_values], dim=2), torch.cat([ids, next_ids], dim=2)
    return values, ids


def uncovered(engine: Engine) -> list[float]:
    """Return the largest logit at each position of two images, all of whose codes are hidden."""
    shape, labels = engine.shape, torch.tensor([0, 3], device=engine.device)
    hidden = torch.full((2, shape.positions, shape.subtokens), shape.vocabulary, device=engine.device)
    return engine.build_decoder(2)((hidden, labels), 0, 0, shape.positions).float().amax(dim=3).flatten().tolist()


def draw(engine: Engine, config: Config, lookahead: int) -> list[list[list[int]]]:
    """Return the sub-tokens of two images, so many positions at once."""
    sampling, labels = SamplingConfig(cfg_scale=2.0, lookahead=lookahead), torch.tensor([0, 3], device=engine.device)
    return draw_codes(config, engine.build_decoder, labels, [1, 2], sampling=sampling).tolist()


def gather_all(engine: Engine) -> dict[str, Tensor]:
    state = engine.state
    return {f"{kind}/{name}": state.gather(kind, name).cpu() for kind in state.kinds for name in state.names}


def main() -> None:
    out, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    environment = process_environment()
    connect(load_config(TINY), environment)
    for case in cases:
        config = load_config(TINY, case["overrides"])
        facts, tensors = train_case(config, case["steps"], case.get("is_shuffled", False))
        written = out / f"{case['name']}.rank{environment.rank}"
        save_file(tensors, f"{written}.safetensors")
        Path(f"{written}.json").write_text(json.dumps(facts))
    disconnect()


if __name__ == "__main__":
    main()

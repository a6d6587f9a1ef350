"""The job behind `elm evaluate RUN`: the loss of a run's weights on the validation images of its shards.

On one process, in fp32 and without dropout, whatever the run was trained on.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from elm_dist.checkpoint.convert import KINDS
from elm_dist.checkpoint.model import Weights, load_model, weights_sha256
from elm_dist.checkpoint.run_folder import choose_checkpoint, load_run_config
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.config import Config
from elm_dist.data.loader import TokenLoader
from elm_dist.devices import choose_device
from elm_dist.errors import ShardError
from elm_dist.files import replace_text
from elm_dist.model.elm import code_shape
from elm_dist.model.head import CodeLoss
from elm_dist.monitoring.metrics import loss_metrics
from elm_dist.monitoring.speedometer import Speedometer


@dataclass(frozen=True)
class RunLoss:
    """The losses of both kinds of weights, by the names that training gives them; rich prints it as a table."""

    scores: dict[str, float]  # "ema validation/loss" and so on
    settings: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps({"kind": "run", "scores": self.scores, "settings": self.settings}, indent=1) + "\n"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        run, images = self.settings["run"], self.settings["validation_images"]
        table = Table(title=f"{run} at step {self.settings['step']:,} on {images:,} validation images")
        table.add_column("measure")
        for weights in get_args(Weights):
            table.add_column(f"{weights} weights", justify="right")
        for name in dict.fromkeys(name.partition(" ")[2] for name in self.scores):
            table.add_row(name, *(f"{self.scores[f'{weights} {name}']:.4f}" for weights in get_args(Weights)))
        yield table


def evaluate_run(run: Path, *, batch_size: int, out: Path | None = None) -> RunLoss:
    """Measure the newest good checkpoint of a run on its whole validation split; write it to `out`, too.

    Raises an ElmError for a folder that is no run, one without a checkpoint, and shards that are missing or others.
    """
    config = load_run_config(run)
    kinds: tuple[Weights, ...] = get_args(Weights)
    needed = tuple(f"{KINDS[weights]}-" for weights in kinds)
    checkpoint = choose_checkpoint(run, None, lambda files: [file for file in files if file.startswith(needed)])
    loader = TokenLoader(
        config.data.shards,
        seed=config.run.seed,
        global_batch_size=batch_size,
        micro_batch_size=batch_size,
        class_dropout=0,
        null_class=config.model.num_classes,
        verify=True,
    )
    if checkpoint.facts.get("data") != loader.manifest.fingerprint:
        raise ShardError(
            f"{config.data.shards}: these are not the shards that {run} was trained on; bring those back, or make them "
            "again with the same `elm tokenize`"
        )
    device = choose_device("auto")
    scores = {
        f"{weights} {name}": value
        for weights in kinds
        for name, value in _measure(checkpoint, config, weights, loader, device).items()
    }
    settings = {
        "run": str(run),
        "step": checkpoint.step,
        "weights_sha256": {weights: weights_sha256(checkpoint, weights) for weights in kinds},
        "tokenizer_sha256": loader.manifest.tokenizer_fingerprint,
        "shards": str(config.data.shards),
        "shards_sha256": loader.manifest.fingerprint,
        "validation_images": loader.manifest.samples("validation"),
        "seed": config.run.seed,
        "precision": "fp32",
        "batch_size": batch_size,
        "device": str(device),
        "torch": torch.__version__,
    }
    result = RunLoss(scores, settings)
    if out:
        replace_text(out, result.to_json())
    return result


@torch.no_grad()
def _measure(
    checkpoint: Checkpoint, config: Config, weights: Weights, loader: TokenLoader, device: torch.device
) -> dict[str, float]:
    """Return the losses of one kind of weights over the whole validation split."""
    model = load_model(checkpoint, config, weights).to(device)
    shape = code_shape(config.model, config.tokenizer.grid)
    loss = CodeLoss(shape)
    images, batch_size = loader.manifest.samples("validation"), loader.global_batch_size
    with Speedometer(f"{weights} weights", 0, 1) as speedometer:
        speedometer.show(0, images)
        for step in range(math.ceil(images / batch_size)):
            batch = loader.validation_micro_batch(step, 0)
            codes = batch.codes.to(device)
            loss(model((codes, batch.labels.to(device))), codes)
            speedometer.show(min((step + 1) * batch_size, images), images)
    *sums, count = loss.sums.tolist()
    heads = [total / count for total in sums]
    measured = loss_metrics(
        "validation", heads[: shape.subtokens], heads[shape.subtokens :], config.model.subtoken_bits
    )
    nats = sum(heads[: shape.subtokens]) * shape.positions  # of an image: over all its positions and heads
    return {"validation/bits_per_image": nats / math.log(2), **measured}

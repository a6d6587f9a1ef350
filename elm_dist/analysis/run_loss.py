"""The job behind `elm evaluate RUN`: the loss of a run's weights on the validation images of its shards.

On one process, in fp32 and without dropout, whatever the run was trained on.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from elm_dist.analysis.measured_run import MeasuredRun, open_run
from elm_dist.checkpoint.model import Weights
from elm_dist.files import replace_text
from elm_dist.model.loss import build_loss
from elm_dist.monitoring.metrics import loss_metrics


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
    kinds: tuple[Weights, ...] = get_args(Weights)
    opened = open_run(run, kinds, batch_size=batch_size)
    scores = {f"{weights} {name}": value for weights in kinds for name, value in _measure(opened, weights).items()}
    settings = opened.settings() | {"validation_images": opened.images}
    result = RunLoss(scores, settings)
    if out:
        replace_text(out, result.to_json())
    return result


def _measure(opened: MeasuredRun, weights: Weights) -> dict[str, float]:
    """Return the losses of one kind of weights over the whole validation split."""
    model, shape = opened.load_model(weights), opened.code_shape
    loss = build_loss(opened.config.model, shape)
    for codes, labels in opened.batches(opened.images, f"{weights} weights"):
        loss(model((codes, labels)), codes)
    *sums, count = loss.sums.tolist()
    heads = [total / count for total in sums]
    measured = loss_metrics("validation", heads[: shape.subtokens], heads[shape.subtokens :], shape.subtoken_bits)
    if opened.config.model.modelling == "masked":
        return measured  # what is hidden depends on the mask: the loss is no code length
    nats = sum(heads[: shape.subtokens]) * shape.positions  # of an image: over all its positions and heads
    return {"validation/bits_per_image": nats / math.log(2), **measured}

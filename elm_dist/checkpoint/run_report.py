"""What a run's folder holds, for people to read: its model, its checkpoints and whether they are good, its last report.

Reads every checkpoint in full, unless it is to be fast. Knows nothing of how the run was trained.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elm_dist.checkpoint.latest import CHECKPOINTS, latest_step
from elm_dist.checkpoint.run_folder import load_run_config
from elm_dist.checkpoint.store import Checkpoint, checkpoint_steps
from elm_dist.checkpoint.tokenizer import has_tokenizer
from elm_dist.config import Config
from elm_dist.errors import CheckpointError
from elm_dist.model.cost import count_parameters
from elm_dist.monitoring import metrics
from elm_dist.monitoring.events import EVENTS, read_events
from elm_dist.monitoring.goodput import Goodput, account


@dataclass(frozen=True)
class CheckpointLine:
    """One checkpoint as it was found; `damage` is the sentence of what is wrong with it, if anything is."""

    step: int
    checkpoint: Checkpoint | None
    damage: str

    def __str__(self) -> str:
        if self.checkpoint is None or self.damage:
            return f"step {self.step:,}: damaged: {self.damage}"
        megabytes = sum(entry["bytes"] for entry in self.checkpoint.files.values()) / 1e6
        return f"step {self.step:,}: {megabytes:,.1f} MB, saved {self.checkpoint.saved} by {self.checkpoint.layout}"


@dataclass(frozen=True)
class RunReport:
    """What was found; `str` writes it out."""

    directory: Path
    config: Config
    environment: dict[str, Any]
    checkpoints: list[CheckpointLine]
    latest: int | None
    losses: dict[str, tuple[int, float]]  # newest (step, value) of the losses that were reported
    verified: bool
    goodput: Goodput

    @property
    def is_good(self) -> bool:
        return not any(line.damage for line in self.checkpoints)

    def __str__(self) -> str:
        goodput = [f"goodput          {self.goodput}"] if self.goodput.starts else []
        head = [self._model(), self._tokenizer(), self._started()]
        return "\n".join([*head, *self._checkpoints(), *self._losses(), *goodput])

    def _model(self) -> str:
        model = self.config.model
        parameters = count_parameters(model, self.config.tokenizer.grid)
        return (
            f"{self.directory}: {model.num_layers} layers of {model.hidden_size}, {model.subtokens}-"
            f"{model.subtoken_bits} sub-tokens, {model.num_classes:,} classes, {parameters:,} parameters"
        )

    def _tokenizer(self) -> str:
        tokenizer = self.config.tokenizer
        missing = "" if has_tokenizer(tokenizer.directory) else ", which is not there"
        return (
            f"tokenizer    {tokenizer.kind}, {tokenizer.grid} codes of {tokenizer.code_bits} bits, "
            f"in {tokenizer.directory}{missing}"
        )

    def _started(self) -> str:
        found = self.environment
        if not found:
            return "started      never"
        return f"started      {found['started']} on {found['host']} ({found['device']}): {found['layout']}"

    def _checkpoints(self) -> list[str]:
        good = sum(not line.damage for line in self.checkpoints)
        how = "checksums good" if self.verified else "complete, checksums not checked"
        newest = "" if self.latest is None else f"; `latest` is step {self.latest:,}"
        return [
            f"checkpoints  {good} of {len(self.checkpoints)} {how}{newest}",
            *(f"             {line}" for line in self.checkpoints),
        ]

    def _losses(self) -> list[str]:
        return [f"{name:<16} {value:.4f} at step {step:,}" for name, (step, value) in self.losses.items()]


def inspect_run(directory: Path, fast: bool = False) -> RunReport:
    """Return what a run's folder holds; with `fast`, files are there and of the right size, but not read.

    Raises CheckpointError for a folder that is no run.
    """
    config = load_run_config(directory)
    checkpoints = directory / CHECKPOINTS
    environment = directory / "environment.json"
    return RunReport(
        directory,
        config,
        json.loads(environment.read_text()) if environment.is_file() else {},
        [_check(checkpoints / f"step_{step:08d}", step, fast) for step in checkpoint_steps(checkpoints)],
        latest_step(checkpoints),
        _newest_losses(directory / "metrics.jsonl"),
        not fast,
        account(read_events(directory / EVENTS)),
    )


def _check(directory: Path, step: int, fast: bool) -> CheckpointLine:
    checkpoint = None
    try:
        checkpoint = Checkpoint(directory)
        checkpoint.verify(checkpoint.files, sizes_only=fast)
    except CheckpointError as error:
        return CheckpointLine(step, checkpoint, str(error))
    return CheckpointLine(step, checkpoint, "")


def _newest_losses(path: Path) -> dict[str, tuple[int, float]]:
    newest: dict[str, tuple[int, float]] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            report = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed
        newest |= {
            name: (report["step"], report[name]) for name in (metrics.LOSS, metrics.VALIDATION_LOSS) if name in report
        }
    return newest

"""What runs logged of their losses, read from their folders: config.yaml and metrics.jsonl.

Knows nothing of what is fitted to it.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from elm_dist.checkpoint.run_folder import load_run_config
from elm_dist.config import Config
from elm_dist.errors import EvaluationError
from elm_dist.model.cost import count_parameters, training_flops_per_image
from elm_dist.monitoring.metrics import BITS_PER_CODE_BIT, VALIDATION_BITS_PER_CODE_BIT

Split = Literal["validation", "train"]
METRICS: dict[Split, str] = {"validation": VALIDATION_BITS_PER_CODE_BIT, "train": BITS_PER_CODE_BIT}
SIZE = {"num_layers", "hidden_size", "num_heads", "key_value_heads"}  # settings in which models of a series may differ


@dataclass(frozen=True)
class RunCurve:
    """The loss of a run as it went on."""

    run: Path
    config: Config
    bits: dict[int, float]  # bits per code bit by step, in order

    @property
    def parameters(self) -> int:
        return count_parameters(self.config.model, self.config.tokenizer.grid)

    @property
    def kind(self) -> dict[str, Any]:
        """Everything of the model and its codes but their size: runs that agree in it make one series."""
        return kind_of(self.config)

    @property
    def settled(self) -> list[int]:
        """The steps after the warm-up, in which losses follow the learning rate."""
        return [step for step in self.bits if step > self.config.schedule.warmup_steps]

    def images(self, step: int) -> int:
        """Return how many images the run had seen."""
        return step * self.config.schedule.global_batch_size

    def flops(self, images: float) -> float:
        return images * training_flops_per_image(self.config.model, self.config.tokenizer.grid)

    def step_at(self, images: float) -> int:
        """Return the last measured step that is not beyond so many images."""
        return max(step for step in self.settled if self.images(step) <= images)


def kind_of(config: Config) -> dict[str, Any]:
    """Return all settings of the model and the tokenizer that are no size and no place, by their path."""
    sections = {"model": config.model.model_dump(exclude=SIZE), "tokenizer": config.tokenizer.model_dump()}
    del sections["tokenizer"]["directory"]
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def nats_per_subtoken(bits: float, config: Config) -> float:
    """Return bits per code bit as the loss that training reports."""
    return bits * config.model.subtoken_bits * math.log(2)


def read_curves(runs: Sequence[Path]) -> tuple[Split, list[RunCurve]]:
    """Return the validation losses of the runs, or the training losses of all where one has no other.

    Raises CheckpointError for a folder that is no run, EvaluationError for one that is given twice or has no loss that
    was measured after its warm-up, and for runs that have no kind of loss in common.
    """
    if twice := [run for index, run in enumerate(runs) if run.resolve() in {other.resolve() for other in runs[:index]}]:
        raise EvaluationError(f"{twice[0]} is given twice; give each run once, and seeds as runs of their own")
    configs = [load_run_config(run) for run in runs]
    found: dict[Split, list[RunCurve]] = {
        split: [RunCurve(run, config, _read(run, metric)) for run, config in zip(runs, configs, strict=True)]
        for split, metric in METRICS.items()
    }
    for split, curves in found.items():
        if all(curve.settled for curve in curves):
            return split, curves
    silent = [both[0].run for both in zip(*found.values(), strict=True) if not any(curve.settled for curve in both)]
    if silent:
        raise EvaluationError(
            f"{silent[0]} has no loss in metrics.jsonl that was measured after its warm-up; train it further, or leave "
            "it out"
        )
    lone = next(curve.run for curve in found["train"] if not curve.settled)
    raise EvaluationError(
        f"{lone} has losses of validation alone, and other runs of training alone, so that they do not compare; train "
        "the others with monitoring.validation_every, or leave them out"
    )


def _read(run: Path, metric: str) -> dict[int, float]:
    path = run / "metrics.jsonl"
    found: dict[int, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            report = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed
        if metric in report:
            found[report["step"]] = report[metric]
    return dict(sorted(found.items()))

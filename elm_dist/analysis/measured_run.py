"""A run's weights and the validation images of its shards, opened to be measured together.

On one process, in fp32 and without dropout, whatever the run was trained on. Knows nothing of what is measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elm_dist.checkpoint.convert import KINDS
from elm_dist.checkpoint.model import Weights, load_model, weights_sha256
from elm_dist.checkpoint.run_folder import choose_checkpoint, load_run_config
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import Config
from elm_dist.data.loader import TokenLoader, load_tokens
from elm_dist.devices import choose_device
from elm_dist.errors import ShardError
from elm_dist.model.elm import ELM, code_shape
from elm_dist.monitoring.speedometer import Speedometer


@dataclass(frozen=True)
class MeasuredRun:
    """A checkpoint of a run, of which `kinds` of weights were checked, and the shards that it was trained on."""

    run: Path
    config: Config
    checkpoint: Checkpoint
    kinds: tuple[Weights, ...]
    loader: TokenLoader
    device: torch.device

    @property
    def images(self) -> int:
        """Images of the validation split."""
        return self.loader.manifest.samples("validation")

    @property
    def code_shape(self) -> CodeShape:
        return code_shape(self.config.model, self.config.tokenizer.grid)

    def load_model(self, weights: Weights) -> ELM:
        """Return the model on the run's device, in fp32 and without gradients."""
        return load_model(self.checkpoint, self.config, weights).to(self.device)

    def batches(self, images: int, work: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what a model takes, rows of packed codes and labels (batch,), of the first validation images in order.

        Shows those who wait how far the `work` is.
        """
        size = self.loader.micro_batch_size
        with Speedometer(work, 0, 1) as speedometer:
            speedometer.show(0, images)
            for start in range(0, images, size):
                batch = self.loader.validation_micro_batch(0, start // size)
                end = min(start + size, images)
                yield batch.codes[: end - start].to(self.device), batch.labels[: end - start].to(self.device)
                speedometer.show(end, images)

    def settings(self) -> dict[str, Any]:
        """Return what decides every measurement of it."""
        manifest = self.loader.manifest
        return {
            "run": str(self.run),
            "step": self.checkpoint.step,
            "weights_sha256": {weights: weights_sha256(self.checkpoint, weights) for weights in self.kinds},
            "tokenizer_sha256": manifest.tokenizer_fingerprint,
            "shards": str(self.config.data.shards),
            "shards_sha256": manifest.fingerprint,
            "seed": self.config.run.seed,
            "precision": "fp32",
            "batch_size": self.loader.micro_batch_size,
            "device": str(self.device),
            "torch": torch.__version__,
        }


def open_run(run: Path, kinds: tuple[Weights, ...], *, step: int | None = None, batch_size: int) -> MeasuredRun:
    """Open the checkpoint of `step`, by default the newest good one, and the run's shards.

    Raises an ElmError for a folder that is no run, one without such a checkpoint, and shards that are not the run's.
    """
    config = load_run_config(run)
    needed = tuple(f"{KINDS[weights]}-" for weights in kinds)
    checkpoint = choose_checkpoint(run, step, lambda files: [file for file in files if file.startswith(needed)])
    loader = load_tokens(
        config,
        global_batch_size=config.schedule.global_batch_size,  # by which a masked model's shares may be drawn
        micro_batch_size=batch_size,
        class_dropout=0,
        verify=True,
    )
    here = loader.manifest.fingerprint
    if checkpoint.facts.get("data", here) != here:  # published weights do not say what they were trained on
        raise ShardError(
            f"{config.data.shards}: these are not the shards that {run} was trained on; bring those back, or make them "
            "again with the same `elm tokenize`"
        )
    return MeasuredRun(run, config, checkpoint, kinds, loader, choose_device("auto"))

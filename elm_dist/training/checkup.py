"""Looks at each step for what goes wrong slowly or unseen: spikes of the loss, slow ranks, replicas that fall apart.

Every rank does the same at the same step, as two of the three ask all ranks.
"""

import logging

from elm_dist.config import HealthConfig
from elm_dist.errors import TrainingError
from elm_dist.monitoring.health import SpikeScore, StragglerWatch
from elm_dist.parallel.engine import Engine, StepResult

log = logging.getLogger(__name__)


class Checkup:
    """What is remembered from step to step to tell."""

    def __init__(self, engine: Engine, config: HealthConfig) -> None:
        self._config = config
        self._engine = engine
        self.spikes = SpikeScore()
        self._stragglers = StragglerWatch(config.straggler_window, config.straggler_ratio)

    def examine(self, step: int, result: StepResult) -> None:
        """Examine the engine after `step` updates. Raises TrainingError where replicas hold different weights."""
        self.spikes.count(result.loss)
        median = self._stragglers.count(result.forward_seconds)
        if median is not None:
            slow = self._stragglers.judge(self._engine.gather(median), self._engine.layout.peers)
            for rank, ratio in slow.items():
                log.info(
                    "rank %d is a straggler: its forward passes take %.2f times as long as its peers'", rank, ratio
                )
        every = self._config.compare_replicas_every
        if every and step % every == 0 and (diverged := self._engine.find_divergence()):
            raise TrainingError(
                f"ranks {', '.join(map(str, diverged))} are replicas and hold different weights at step {step:,}: a "
                "device or a link of theirs computes wrongly; find it, delete the checkpoints after step "
                f"{step - every:,}, when they were equal, and start again"
            )

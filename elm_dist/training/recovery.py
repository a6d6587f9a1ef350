"""What a run does about steps without finite gradients: it skips them, and goes back if they do not stop.

The engine has skipped such a step on all ranks already, when it says so. Here every rank counts the same results and so
decides alike. Knows nothing of engines and checkpoints.
"""

import math

from elm_dist.config import HealthConfig
from elm_dist.errors import TrainingError
from elm_dist.parallel.engine import StepResult

REMEDY = "with a lower optimizer.learning_rate, more schedule.warmup_steps, or gradient clipping"


class Recovery:
    """Counts ill steps, and says when to go back. Checkpoints carry `facts`."""

    def __init__(self, config: HealthConfig, scales_loss: bool) -> None:
        self._config = config
        self._scales_loss = scales_loss
        self.skipped_steps = 0  # of the run so far: updates that did not happen
        self.jumped_batches = 0  # global batches of the data that were left out
        self._ill_in_a_row = self._rollbacks = 0

    @property
    def facts(self) -> dict[str, int]:
        """What a run must know to go on after a restart."""
        return {"skipped_steps": self.skipped_steps, "jumped_batches": self.jumped_batches}

    def restore(self, facts: dict[str, int]) -> None:
        """Lay what a checkpoint carries over the counts; those of earlier versions carry none."""
        self.skipped_steps, self.jumped_batches = facts.get("skipped_steps", 0), facts.get("jumped_batches", 0)

    def is_ill(self, result: StepResult) -> bool:
        """Return whether a step went wrong; an fp16 run skips steps while it looks for its loss scale, and is well."""
        return not math.isfinite(result.loss) or (result.is_skipped and not self._scales_loss)

    def must_go_back(self, result: StepResult) -> bool:
        """Count a step, and return whether to go back to the newest checkpoint."""
        self.skipped_steps += result.is_skipped
        self._ill_in_a_row = self._ill_in_a_row + 1 if self.is_ill(result) else 0
        return self._ill_in_a_row >= self._config.skips_before_rollback

    def saved(self) -> None:
        """Note that there is a newer checkpoint: the run got further."""
        self._rollbacks = 0

    def go_back(self, step: int, checkpoint_step: int | None, facts: dict[str, int]) -> None:
        """Note that the run, at `step`, goes back to a checkpoint and on with the data past this one's.

        Raises TrainingError where there is no checkpoint, or going back has not helped.
        """
        ill = f"{self._ill_in_a_row} steps in a row, up to step {step:,}, had no finite loss or gradients"
        if checkpoint_step is None:
            raise TrainingError(f"{ill}, and there is no checkpoint to go back to; start again {REMEDY}")
        if self._rollbacks == self._config.rollbacks:
            raise TrainingError(
                f"{ill}, and going back {self._rollbacks} times to the checkpoint of step {checkpoint_step:,} did not "
                f"help; delete it to go on from the one before, or start anew, {REMEDY}"
            )
        jumped = self.jumped_batches + step - checkpoint_step
        self.restore(facts)
        self.jumped_batches = jumped
        self._rollbacks += 1
        self._ill_in_a_row = 0

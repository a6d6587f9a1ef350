"""How often to save with `checkpoint.every: auto`: as often as loses the least time (Young, Daly).

A save that holds the training up for C seconds costs C / T of the time where one is made every T seconds, and a fault
every M seconds loses T / 2 on average, which is T / 2M of it. The sum is smallest at T = sqrt(2 C M) (J. W. Young, "A
first order approximation to the optimum checkpoint interval", 1974). Knows nothing of checkpoints.
"""

import logging
import math
import time

log = logging.getLogger(__name__)

LEAST_SECONDS = 60.0  # what a save does to the disk, and the steps behind which it is written, is not in C
NOTABLE = 1.2  # a change of this much is logged


class SaveInterval:
    """Says when a checkpoint is due, from what the saves so far took. One process decides for all."""

    def __init__(self, mtbf_hours: float) -> None:
        self._mtbf = 3600 * mtbf_hours
        self._begin = time.monotonic()
        self.seconds = self._logged = self.best(0.0)

    def best(self, save_seconds: float) -> float:
        """Return the interval in seconds for saves of so many; at most half the time between two faults."""
        return min(max(math.sqrt(2 * save_seconds * self._mtbf), LEAST_SECONDS), self._mtbf / 2)

    def is_over(self) -> bool:
        return time.monotonic() - self._begin >= self.seconds

    def saved(self, save_seconds: float, step_seconds: float) -> None:
        """Begin the next interval after a save that held the training up for so long."""
        self._begin, self.seconds = time.monotonic(), self.best(save_seconds)
        if not self._logged / NOTABLE < self.seconds < self._logged * NOTABLE:
            self._logged = self.seconds
            log.info(
                "checkpoint.every=auto: a save holds up %.2f s, so one every %.0f s, about %s steps",
                *(save_seconds, self.seconds, f"{math.ceil(self.seconds / step_seconds):,}" if step_seconds else "?"),
            )

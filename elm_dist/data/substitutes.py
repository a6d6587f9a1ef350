"""Reads on where shards are bad: a sample that cannot be read gives way to another one, so that no step is left out.

Which one follows from the order of training and from which shards are bad, not from what was read before: so a resumed
run goes on exactly, and all processes that ask for the same position get the same sample. Knows nothing of the order.

Processes agree as far as they see the same files. A shard that is bad on one node alone, as on a local disk, changes
what that node reads and nothing else. Between replicas that does no harm: each reads positions of its own. But the
first and the last stage of a pipeline read the same ones: on nodes that differ, inputs and targets would not match.
"""

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from elm_dist.data.shards import ShardReader
from elm_dist.errors import ShardError

logger = logging.getLogger(__name__)


class SubstitutingReader:
    """Reads training samples from a `reader` as long as at most the share `max_bad_shards` of its shards are bad."""

    def __init__(self, reader: ShardReader, max_bad_shards: float) -> None:
        self.replaced = 0  # samples so far that gave way to others
        self._reader, self._max_bad_shards = reader, max_bad_shards
        self._logged: set[int] = set()

    @property
    def bad_shards(self) -> int:
        """How many shards were found to be bad so far."""
        return len(self._reader.bad)

    def read(self, candidates: Callable[[int], NDArray[np.int64]]) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """Return the codes (n, sample_bytes) and the labels (n,) of the stored indices `candidates(0)`, (n,).

        Those of them that lie in bad shards give way to those at the same places of `candidates(1)`, and so on. Raises
        ShardError when too many shards are bad.
        """
        indices, attempt = candidates(0), 0
        while True:
            try:
                return self._reader.read(indices)
            except ShardError:
                is_bad = self._reader.is_bad(indices)
            self._report()
            if attempt == 0:
                self.replaced += int(is_bad.sum())
            attempt += 1
            indices = np.where(is_bad, candidates(attempt), indices)

    def _report(self) -> None:
        """Log each bad shard once; raise ShardError when they are too many."""
        bad, shards = self._reader.bad, self._reader.shards
        allowed = int(shards * self._max_bad_shards)  # of those that hold samples: one good one is always left
        new = [bad[number] for number in sorted(bad.keys() - self._logged)]
        for message in new:
            logger.warning("%s; until the next start, other samples are read in place of those in it", message)
        self._logged = set(bad)
        if len(bad) > allowed:
            raise ShardError(
                f"{new[0]}; {len(bad)} of {shards} training shards are bad, but data.max_bad_shards="
                f"{self._max_bad_shards:g} allows {allowed}"
            )

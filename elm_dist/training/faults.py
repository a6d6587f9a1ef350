"""Turns what fails under a run, its disk or the other processes, into one sentence that says what to do.

A rank whose peer is gone learns it from the collective operation that cannot end. Knows nothing of what a step does.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from elm_dist.errors import FaultError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENXIO)
GLOO = ("gloo", "Connection closed by peer", "Connection reset by peer")  # it has no class of its own


@contextmanager
def faults_explained(directory: Path, rank: int) -> Iterator[None]:
    """Raise FaultError for a disk that refuses, and for a process that another one waits for and that is gone."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise FaultError(
            f"rank {rank} cannot read or write {error.filename or directory} ({error.strerror}); make room, mend its "
            "permissions, or set run.directory to another disk, then start again: the run goes on from its newest "
            "checkpoint"
        ) from error
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        if not isinstance(error, dist.DistError) and not any(word in reason for word in GLOO):
            raise
        reason = re.sub(r"^\[\S+\] ", "", reason).partition(". This is typically")[0]  # a line of gloo's source; advice
        raise FaultError(
            f"rank {rank} lost another process, or waited for it longer than parallel.timeout_minutes ({reason}); the "
            "log of that one says why it ended; started again, the run goes on from its newest checkpoint"
        ) from error

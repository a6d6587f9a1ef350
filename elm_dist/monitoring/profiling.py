"""A trace of a few steps for chrome://tracing or Perfetto, and of the GPU's memory when that runs out.

Knows nothing of what a step does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from elm_dist.errors import FaultError


class StepProfiler:
    """Writes directory/<name>_steps_<first>_to_<last>.json, the trace of `count` steps from `first` on; 0 = never."""

    def __init__(self, directory: Path, name: str, first: int, count: int, device: torch.device) -> None:
        self._directory, self._name, self._device = directory, name, device
        self._first, self._last = first, first + count - 1
        self._profile: profile | None = None

    @contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Trace the step that is done inside, if it is one of those."""
        if step == self._first:
            activities = [ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities)
            self._profile.start()
        yield
        if self._profile is not None and step >= self._last:
            self._profile.stop()
            self._directory.mkdir(parents=True, exist_ok=True)
            file = f"{self._name}_steps_{self._first}_to_{self._last}.json"
            self._profile.export_chrome_trace(str(self._directory / file))
            self._profile = None


@contextmanager
def out_of_memory_explained(directory: Path, rank: int, has_snapshot: bool) -> Iterator[None]:
    """Turn running out of memory into a FaultError that says what helps.

    With `has_snapshot` a GPU's allocations are recorded, and written to directory/memory_rank<rank>.pickle, which
    pytorch.org/memory_viz draws.
    """
    has_snapshot = has_snapshot and torch.cuda.is_available()
    if has_snapshot:
        torch.cuda.memory._record_memory_history()
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        is_main_memory = "can't allocate memory" in str(error)  # of the CPU, which has no class of its own in torch
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not is_main_memory:
            raise
        seen = ""
        if has_snapshot:
            directory.mkdir(parents=True, exist_ok=True)
            snapshot = directory / f"memory_rank{rank}.pickle"
            torch.cuda.memory._dump_snapshot(str(snapshot))
            seen = f" ({snapshot} shows what took it)"
        raise FaultError(
            f"rank {rank} is out of memory{seen}; set a smaller schedule.micro_batch_size, "
            "parallel.checkpoint_every_blocks=1, a higher parallel.zero_stage, or parallel.offload"
        ) from error
    finally:
        if has_snapshot:
            torch.cuda.memory._record_memory_history(enabled=None)

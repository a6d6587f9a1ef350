"""What the store needs to know of an engine, small enough for one test: two weights and their averages, on one rank.

As a script, `one_process.py DIRECTORY MEGABYTES`: saves step 1, then says so and saves step 2 behind.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from elm_dist.checkpoint.store import CheckpointStore
from elm_dist.config import CheckpointConfig


@dataclass
class Tensors:
    kinds: list[str] = field(default_factory=lambda: ["weights", "ema"])
    names: list[str] = field(default_factory=lambda: ["a.weight", "b.weight"])
    rows: int = 3
    values: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        for kind in self.kinds:
            for name in self.names:
                self.values[kind, name] = torch.randn(self.rows, 4, generator=generator)

    def shape(self, name: str) -> torch.Size:
        return self.values["weights", name].shape

    def is_replicated(self, name: str) -> bool:
        return True

    def piece(self, kind: str, name: str) -> tuple[int, Tensor] | None:
        return 0, self.values[kind, name].view(-1)

    def scatter(self, kind: str, name: str, read: Callable[[int, int], Tensor]) -> None:
        start, values = self.piece(kind, name) or (0, torch.empty(0))
        values.copy_(read(start, start + len(values)))


@dataclass
class Divided(Tensors):
    """One rank's piece of every tensor, as ZeRO 3 divides them: `part` of `parts` that need not be of the same size."""

    part: int = 0
    parts: int = 1

    def is_replicated(self, name: str) -> bool:
        return False

    def piece(self, kind: str, name: str) -> tuple[int, Tensor] | None:
        values = self.values[kind, name].view(-1)
        start, stop = (len(values) * part // self.parts for part in (self.part, self.part + 1))
        return (start, values[start:stop]) if stop > start else None


@dataclass
class OneProcess:
    """A world of one process, or one rank of several replicas."""

    state: Tensors = field(default_factory=Tensors)
    rank: int = 0
    world_size: int = 1
    meet: Callable[[], object] = lambda: None

    @property
    def layout(self) -> "OneProcess":
        return self

    @property
    def replica(self) -> int:
        return self.rank

    @property
    def replicas(self) -> int:
        return self.world_size

    def barrier(self) -> None:
        self.meet()

    def agree(self, here: bool) -> bool:
        return here

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"


def main() -> None:
    directory, megabytes = Path(sys.argv[1]), int(sys.argv[2])
    process = OneProcess(Tensors(rows=megabytes * 2**20 // 4 // 4 // 4))  # of 4 tensors, 4 columns, 4 bytes
    store = CheckpointStore(directory, CheckpointConfig(asynchronous=True))
    store.save(process, 1, {})
    store.wait()
    process.state.values["weights", "a.weight"] += 1
    store.save(process, 2, {})
    print("saving", flush=True)
    store.wait()
    print("saved", flush=True)


if __name__ == "__main__":
    main()

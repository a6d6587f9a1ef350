"""Trains small runs on many layouts by real processes over gloo, and reads what they saw."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from processes import WORKERS, run_processes
from safetensors.torch import load_file
from torch import Tensor

# Cases by name, each the overrides over tiny.yaml, and how many processes train them. Process groups cost seconds to
# start, so each runs many cases. A pipeline's topology is fixed for a whole process.
Group = tuple[int, dict[str, list[str]]]


class Run(NamedTuple):
    facts: list[dict[str, Any]]  # of each rank
    tensors: dict[str, Tensor]  # "kind/canonical name", of all ranks together

    @property
    def losses(self) -> list[list[float]]:
        return self.facts[0]["losses"]


def train_groups(
    out: Path, groups: list[Group], steps: int, timeout: float = 240, device: str = "cpu"
) -> Callable[[str], Run]:
    """Train every case for so many steps; return what reads a case by its name."""
    ranks = {}
    for world_size, cases in groups:
        listed = [
            {"name": name, "overrides": overrides, "steps": steps, "is_shuffled": name.endswith("shuffled")}
            for name, overrides in cases.items()
        ]
        run_processes(world_size, [str(WORKERS / "layout_worker.py"), str(out), json.dumps(listed)], timeout, device)
        ranks |= dict.fromkeys(cases, world_size)
    return lambda name: _read_run(out, name, ranks[name])


def _read_run(out: Path, name: str, world_size: int) -> Run:
    facts = [json.loads((out / f"{name}.rank{rank}.json").read_text()) for rank in range(world_size)]
    tensors: dict[str, Tensor] = {}
    for rank in range(world_size):
        tensors |= load_file(out / f"{name}.rank{rank}.safetensors")
    return Run(facts, tensors)


def largest_relative_difference(one: list[list[float]], two: list[list[float]]) -> float:
    return max(abs(a - b) / abs(a) for heads in zip(one, two, strict=True) for a, b in zip(*heads, strict=True))

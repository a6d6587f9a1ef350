"""Real runs that go from layout to layout by their checkpoints: nothing is lost on the way, and the curve goes on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from processes import WORKERS, run_processes
from trained_run import folders, tokenize_tiles

from elm_dist.checkpoint.latest import CHECKPOINTS
from elm_dist.checkpoint.store import Checkpoint

STEPS = 2  # of each link
COMMON = [
    "model.num_layers=4",
    "optimizer.gradient_clipping=0",
    "monitoring.validation_every=0",
    "monitoring.sample_every=0",
    "monitoring.tensorboard=false",
    "checkpoint.every=2",
    "checkpoint.keep_every=2",
]
OPTIMIZERS = {
    "sgd": ["optimizer.name=sgd", "optimizer.learning_rate=0.1"],  # which hides no error of a gradient's scale
    "adamw": [],
}


class Link(NamedTuple):
    name: str
    world_size: int
    overrides: list[str]


ONE = Link("1", 1, [])
SHORT = [
    ONE,
    Link("pp2", 2, ["parallel.pipeline_stages=2"]),
    Link("zero3x2", 2, ["parallel.zero_stage=3"]),
]
LONG = [
    ONE,
    Link("zero1x2", 2, []),
    Link("pp4", 4, ["parallel.pipeline_stages=4"]),
    Link("pp2xdp2", 4, ["parallel.pipeline_stages=2"]),
    Link("zero3x4", 4, ["parallel.zero_stage=3"]),
    ONE,
]


class Chain(NamedTuple):
    links: list[Link]
    out: Path

    def losses(self, run: str) -> list[float]:
        lines = (self.out / run / "metrics.jsonl").read_text().splitlines()
        return [report["train/loss"] for report in map(json.loads, lines)]

    def resumes(self) -> Iterator[tuple[str, Checkpoint, Checkpoint]]:
        """Yield of each link after the first its name, what it found, and what it saved before the next step."""
        for number, link in enumerate(self.links[1:], start=1):
            for optimizer in OPTIMIZERS:
                step = f"step_{number * STEPS:08d}"
                found = Checkpoint(self.out / optimizer / CHECKPOINTS / step)
                yield f"{optimizer} {link.name}", found, Checkpoint(self.out / f"{optimizer}_again" / step)


def run_chain(out: Path, links: list[Link]) -> Chain:
    """Train runs of both optimizers through `links`, and beside them the same in one process from end to end."""
    tokenized, total = tokenize_tiles(out / "data"), len(links) * STEPS

    def case(optimizer: str, run: str, steps: int, overrides: list[str]) -> dict[str, object]:
        laid = [*COMMON, *OPTIMIZERS[optimizer], *overrides, f"schedule.total_steps={steps}"]
        return {"overrides": [*folders(tokenized, out / run), *laid], "again": str(out / f"{run}_again")}

    for number, link in enumerate(links, start=1):
        cases = [case(optimizer, optimizer, number * STEPS, link.overrides) for optimizer in OPTIMIZERS]
        if number == 1:
            cases += [case(optimizer, f"{optimizer}_undisturbed", total, []) for optimizer in OPTIMIZERS]
        run_processes(link.world_size, [str(WORKERS / "chain_worker.py"), json.dumps(cases)])
    return Chain(links, out)


@pytest.fixture(
    scope="module",
    params=[pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.slow)],
)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return run_chain(tmp_path_factory.mktemp("chain"), request.param)


def test_what_is_loaded_is_bit_equal_to_what_was_saved(chain: Chain) -> None:
    for name, found, again in chain.resumes():
        assert found.shapes == again.shapes
        kinds = {"weights", "ema"} | ({"exp_avg", "exp_avg_sq"} if "adamw" in name else set())
        assert {entry["kind"] for entry in again.files.values()} == kinds
        for kind in kinds:
            for tensor, shape in found.shapes.items():
                saved = found.read(kind, tensor, shape)
                assert saved.any(), (name, kind, tensor)
                assert torch.equal(saved, again.read(kind, tensor, shape)), (name, kind, tensor)


def test_the_losses_are_those_of_a_run_that_never_moved(chain: Chain) -> None:
    for optimizer in OPTIMIZERS:
        losses = chain.losses(optimizer)
        assert losses == pytest.approx(chain.losses(f"{optimizer}_undisturbed"), rel=1e-6)
        assert len(losses) == len(chain.links) * STEPS


def test_where_only_stages_change_the_losses_are_bit_equal(chain: Chain) -> None:
    alike = STEPS * next(number for number, link in enumerate(chain.links) if "zero" in link.name)
    for optimizer in OPTIMIZERS:
        assert chain.losses(optimizer)[:alike] == chain.losses(f"{optimizer}_undisturbed")[:alike]


def test_the_data_cursor_goes_on(chain: Chain) -> None:
    for optimizer in OPTIMIZERS:
        for step in range(STEPS, len(chain.links) * STEPS + 1, STEPS):
            checkpoint = Checkpoint(chain.out / optimizer / CHECKPOINTS / f"step_{step:08d}")
            assert checkpoint.facts["samples_seen"] == 8 * step


def test_every_rank_writes_its_part_and_none_writes_more(chain: Chain) -> None:
    """The work is spread: with ZeRO over replicas, no rank writes much more than its share of a stage."""
    for number, link in enumerate(chain.links, start=1):
        checkpoint = Checkpoint(chain.out / "adamw" / CHECKPOINTS / f"step_{number * STEPS:08d}")
        written = [0] * link.world_size
        for file, entry in checkpoint.files.items():
            written[int(file.removesuffix(".safetensors").rpartition("-")[2])] += entry["bytes"]
        assert all(written), link
        if link.name.startswith("zero"):
            assert max(written) < 1.3 * sum(written) / link.world_size, link

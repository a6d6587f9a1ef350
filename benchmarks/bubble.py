"""The real bubble of every pipeline schedule, on processes that join over gloo and sleep instead of computing.

    python benchmarks/bubble.py [--stages 4 8] [--micro-batches 8 16]

Sleeping stages need no cores, so what is measured is the waiting: of DeepSpeed's 1F1B and DualPipeV, set up as training
sets them up, and of torch.distributed.pipelining's 1F1B, interleaved, ZB-V and DualPipeV. The model is 2 p equal layers
for p stages: two in one part or, where a schedule holds two parts a stage, one in each. All take turns, step by step,
and medians are shown beside (m + p - 1)(tf + tb), the ideal of 1F1B, and beside what `elm_dist.parallel.schedule`
simulates.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.pipelining import PipelineStage, schedules

from elm_dist.config_file import load_config
from elm_dist.parallel.deepspeed_config import derive_deepspeed_config
from elm_dist.parallel.environment import free_port, process_environment
from elm_dist.parallel.layout import plan_layout
from elm_dist.parallel.schedule import Action, Kind, PartCost, Schedule, build_schedule, has_table, simulate

CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
WIDTH = 8


class Seconds(NamedTuple):
    """How long one micro-batch keeps one stage busy; each of the two gradients takes half of the backward pass."""

    forward: float
    backward: float


class Result(NamedTuple):
    name: str
    micro_batches: int
    seconds: float  # median of the steps
    simulated: float
    peak: float  # most activations that a stage held at a time, in micro-batches of its layers
    simulated_peak: float


# A layer that sleeps


class InputGradient(torch.autograd.Function):
    """Passes its input on; sleeps in the forward pass and in the gradient of the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: float, backward: float) -> Tensor:
        ctx.seconds = backward
        time.sleep(forward)
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        time.sleep(ctx.seconds)
        return gradient, None, None


class WeightGradient(torch.autograd.Function):
    """Passes a weight on; sleeps in its gradient, after which the layer's activations are free."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, backward: float, live: "Live") -> Tensor:
        ctx.seconds, ctx.live = backward, live
        live.add(1)
        return weight.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        time.sleep(ctx.seconds)
        ctx.live.add(-1)
        return gradient, None, None


class Live:
    """Counts the layers of this process that hold activations."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def add(self, count: int) -> None:
        self.now += count
        self.peak = max(self.peak, self.now)


LIVE = Live()


class SleepingLayer(nn.Module):
    """Half of a stage's work. Its two gradients are nodes of their own, so a backward pass can be divided in truth."""

    def __init__(self, seconds: Seconds, is_first: bool) -> None:
        super().__init__()
        self.seconds = Seconds(seconds.forward / 2, seconds.backward / 2)
        self.weight = nn.Parameter(torch.zeros(WIDTH))
        # The first layer of a real model is an embedding, whose gradient passes through all that follows.
        self.embedding = nn.Parameter(torch.zeros(WIDTH)) if is_first else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.embedding is None else x + self.embedding
        forward, backward = self.seconds
        passed = InputGradient.apply(x, forward, backward / 2)
        return passed + WeightGradient.apply(self.weight, backward / 2, LIVE)


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).mean()


# The contenders, each a function that trains one step, and the table that it follows


class Contender(NamedTuple):
    name: str
    step: Callable[[], object]
    table: Schedule


def build_deepspeed(name: str, p: int, m: int, rank: int, seconds: Seconds) -> Contender:
    import deepspeed
    from deepspeed.pipe import LayerSpec, PipelineModule
    from deepspeed.runtime.pipe.dualpipev import DualPipeVModule

    overrides = [
        f"parallel.pipeline_stages={p}",
        f"model.num_layers={2 * p}",
        f"schedule.global_batch_size={m}",
        "schedule.micro_batch_size=1",
        "parallel.precision=fp32",
    ]
    config = load_config(CONFIG, overrides)
    kind = {"1f1b": PipelineModule, "dualpipev": DualPipeVModule}[name]
    layers = [LayerSpec(SleepingLayer, seconds, index == 0) for index in range(2 * p)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its partition
        module = kind(layers, num_stages=p, loss_fn=loss_of, partition_method="uniform")
    settings = derive_deepspeed_config(config, plan_layout(config, p, rank))
    optimizer = torch.optim.AdamW(module.parameters())
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
    batches: Iterator[tuple[Tensor, Tensor]] = itertools.repeat((torch.zeros(1, WIDTH), torch.zeros(1, WIDTH)))
    return Contender(f"DeepSpeed {name}", lambda: engine.train_batch(batches), build_schedule(name, p, m))


def build_torch(name: str, p: int, m: int, rank: int, seconds: Seconds) -> Contender:
    kind, parts = {
        "1f1b": (schedules.Schedule1F1B, [rank]),
        "interleaved": (schedules.ScheduleInterleaved1F1B, [rank, p + rank]),
        "zbv": (schedules.ScheduleZBVZeroBubble, [rank, 2 * p - 1 - rank]),
        "dualpipev": (schedules.ScheduleDualPipeV, [rank, 2 * p - 1 - rank]),
    }[name]
    held = [build_torch_part(part, p * len(parts), 2 // len(parts), seconds) for part in parts]
    schedule = kind(held if len(held) > 1 else held[0], m, loss_fn=loss_of)
    inputs = [torch.zeros(m, WIDTH)] if held[0].is_first else []
    target = torch.zeros(m, WIDTH) if held[-1].is_last else None
    # Its DualPipeV divides some backward passes, which DeepSpeed's does not: it follows its own table.
    table = table_of(schedule.pipeline_order) if name == "dualpipev" else build_schedule(name, p, m)
    return Contender(f"torch {name}", lambda: schedule.step(*inputs, target=target, return_outputs=False), table)


def build_torch_part(part: int, parts: int, layers: int, seconds: Seconds) -> PipelineStage:
    module = nn.Sequential(*(SleepingLayer(seconds, part == index == 0) for index in range(layers)))
    example = torch.zeros(1, WIDTH)  # given so that the first step need not find out
    return PipelineStage(
        module,
        part,
        parts,
        torch.device("cpu"),
        input_args=example if part == 0 else example.clone().requires_grad_(),
        output_args=example.clone().requires_grad_(),
    )


def table_of(order: dict[int, list[Any]]) -> Schedule:
    stages = []
    for rank in range(len(order)):
        slots = [slot for slot in order[rank] if slot is not None]
        actions = [action for slot in slots for action in (slot.sub_actions or [slot])]
        stages.append(tuple(Action(Kind(a.computation_type.value), a.stage_index, a.microbatch_index) for a in actions))
    return Schedule(tuple(stages))


CONTENDERS = [
    (build_deepspeed, "1f1b"),
    (build_deepspeed, "dualpipev"),
    (build_torch, "1f1b"),
    (build_torch, "interleaved"),
    (build_torch, "zbv"),
    (build_torch, "dualpipev"),
]


# The measurement


def part_costs(table: Schedule, seconds: Seconds) -> list[PartCost]:
    """Return the costs of equal parts; torch computes all of the first one's gradients as those of its weights."""
    share = len(table.stages) / table.parts
    forward, gradient = seconds.forward * share, seconds.backward * share / 2
    other = PartCost(forward, gradient, gradient, share)
    return [PartCost(forward, 0, 2 * gradient, share), *[other] * (table.parts - 1)]


def time_step(contender: Contender) -> float:
    """Return the seconds of one step on the slowest process."""
    dist.barrier()
    begin = time.perf_counter()
    contender.step()
    seconds = torch.tensor(time.perf_counter() - begin)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return float(seconds)


def measure(contenders: list[Contender], m: int, seconds: Seconds, steps: int) -> list[Result]:
    """Let the contenders take turns; each one's first step, which sets buffers up, does not count."""
    times: list[list[float]] = [[] for _ in contenders]
    peaks = [0] * len(contenders)
    for _ in range(1 + steps):
        for index, contender in enumerate(contenders):
            LIVE.now = LIVE.peak = 0
            times[index].append(time_step(contender))
            peaks[index] = LIVE.peak
    layers = torch.tensor(peaks)
    dist.all_reduce(layers, dist.ReduceOp.MAX)
    results = []
    for contender, measured, peak in zip(contenders, times, layers.tolist(), strict=True):
        timeline = simulate(contender.table, part_costs(contender.table, seconds))
        median = statistics.median(measured[1:])
        held = max(timeline.peak_activations)
        results.append(Result(contender.name, m, median, timeline.makespan, peak / 2, held))
    return results


def work(rank: int, p: int, port: int, arguments: argparse.Namespace, out: Path) -> None:
    """Be one of `p` processes."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": p, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    environment = process_environment()
    environment.choose_device("cpu")
    from elm_dist.parallel.build import connect, disconnect  # after the device is chosen

    torch.set_num_threads(1)
    connect(load_config(CONFIG), environment)
    seconds = Seconds(arguments.forward, arguments.backward)
    results = []
    for m in arguments.micro_batches:
        contenders = [build(name, p, m, rank, seconds) for build, name in CONTENDERS if has_table(name, p, m)]
        results += measure(contenders, m, seconds, arguments.steps)
    if rank == 0:
        out.write_text(json.dumps(results))
    disconnect()


def report(p: int, results: list[Result], seconds: Seconds) -> None:
    micro_batch = sum(seconds)
    headings = ("seconds", "ideal 1F1B", "ratio", "simulated", "of it", "bubble", "held", "simulated", "to 1F1B")
    for m, group in itertools.groupby(results, key=lambda result: result.micro_batches):
        rows = list(group)
        ideal, first = (m + p - 1) * micro_batch, rows[0]
        print(f"\n{f'p = {p}, m = {m}':<22}" + "".join(f"{heading:>12}" for heading in headings))
        for row in rows:
            print(
                f"{row.name:<22}{row.seconds:>12.3f}{ideal:>12.3f}{row.seconds / ideal:>12.3f}{row.simulated:>12.3f}"
                f"{row.seconds / row.simulated:>12.3f}{1 - m * micro_batch / row.seconds:>12.1%}"
                f"{row.peak:>12.1f}{row.simulated_peak:>12.1f}{row.seconds / first.seconds:>12.3f}"
            )
        best = min(rows, key=lambda row: row.seconds)
        verdict = "within" if first.seconds <= 1.1 * ideal else "NOT within"
        print(
            f"{first.name} is {verdict} 1.10 x (m + p - 1)(tf + tb); the best is {best.name}, "
            f"{1 - best.seconds / first.seconds:.1%} below it"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, nargs="+", default=[4, 8], help="p, one process each")
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[8, 16], help="m, of a step")
    parser.add_argument("--forward", type=float, default=0.04, help="tf, seconds a micro-batch sleeps on each stage")
    parser.add_argument("--backward", type=float, default=0.08, help="tb, likewise")
    parser.add_argument("--steps", type=int, default=5, help="of each contender; the median counts")
    arguments = parser.parse_args()
    seconds = Seconds(arguments.forward, arguments.backward)
    for p in arguments.stages:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "results.json"
            torch.multiprocessing.spawn(work, (p, free_port(), arguments, out), nprocs=p)
            report(p, [Result(*result) for result in json.loads(out.read_text())], seconds)
    print(
        "\nheld: most activations at a time, in micro-batches of a stage's layers. bubble: 1 - m (tf + tb) / seconds."
    )


if __name__ == "__main__":
    main()

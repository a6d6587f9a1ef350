"""What a training step costs beyond what it must: our engine over a bare loop, the model over its bare GEMMs.

    python benchmarks/step.py [--hidden 512 --layers 2 --grid 16 --batch 16 --rounds 5]

One thread, fp32, CPU time. The two of a pair take turns in one run; reported are the medians, and the median of the
rounds' ratios. The bare loop is a forward pass, a backward pass, clipping and AdamW on the same model and the same
micro-batch, written down as in any tutorial. The bare GEMMs are the matrix products of the model's linear layers and of
its attention, forward and both of the backward, into memory that is there already, and nothing between them. A profile
shows what the rest of the forward and backward pass is.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from elm_dist.codes.packing import unpack_subtokens
from elm_dist.config import Config
from elm_dist.config_file import load_config
from elm_dist.model.elm import ELM, code_shape, initialize, layer_specs
from elm_dist.model.layers import micro_batch_seed
from elm_dist.model.loss import CodeLoss
from elm_dist.parallel.environment import process_environment
from elm_dist.training.optimizer import build_optimizer, initial_state

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"
PROFILED = 12  # lines of the profile
TARGETS = {"engine over bare loop": 1.05, "forward + backward over bare GEMMs": 1.25}

Work = Callable[[], object]


class Batch(NamedTuple):
    codes: Tensor
    labels: Tensor


def configure(hidden: int, layers: int, grid: int, batch: int) -> Config:
    settings = {
        "tokenizer.image_size": 4 * grid,  # 4 pixels a code
        "model.hidden_size": hidden,
        "model.num_layers": layers,
        "model.num_heads": max(1, hidden // 64),
        "model.dropout": 0.1,
        "schedule.micro_batch_size": batch,
        "schedule.global_batch_size": batch,
        "parallel.device": "cpu",
        "parallel.pipeline_stages": 1,
        "parallel.zero_stage": 1,
    }
    return load_config(DEMO, [f"{name}={value}" for name, value in settings.items()])


def random_batch(config: Config) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape, size = code_shape(config.model, config.tokenizer.grid), config.schedule.micro_batch_size
    codes = torch.randint(0, 256, (size, shape.packed_bytes), generator=generator)
    return Batch(codes.to(torch.uint8), torch.randint(0, config.model.num_classes, (size,), generator=generator))


def build_model(config: Config) -> ELM:
    model = ELM(layer_specs(config.model, config.tokenizer.grid))
    initialize(model.named_parameters(), config.run.seed)
    return model


def build_engine_step(config: Config, batch: Batch) -> Work:
    """Return our engine's step, of one process; it gives the loss."""
    environment = process_environment()
    environment.choose_device("cpu")
    from elm_dist.parallel.build import build_engine, connect  # after the device is chosen

    connect(config, environment)
    engine = build_engine(config, environment, lambda named: build_optimizer(named, config.optimizer))
    engine.prepare_optimizer(lambda master: initial_state(master, config.optimizer))
    return lambda: engine.train_step(0, lambda step, index: batch).loss


def build_bare_step(config: Config, batch: Batch) -> Work:
    model = build_model(config)
    optimizer = build_optimizer(model.named_parameters(), config.optimizer)
    targets = unpack_subtokens(batch.codes, code_shape(config.model, config.tokenizer.grid)).flatten()

    def step() -> float:
        optimizer.zero_grad()
        with micro_batch_seed(0):
            logits = model(batch)
        loss = F.cross_entropy(logits.flatten(0, 2), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.gradient_clipping)
        optimizer.step()
        return loss.item()

    return step


def build_forward_backward(config: Config, batch: Batch) -> Work:
    """Return the model's forward and backward pass, its loss counted as in training."""
    model, loss = build_model(config), CodeLoss(code_shape(config.model, config.tokenizer.grid))

    def forward_backward() -> None:
        model.zero_grad()
        with micro_batch_seed(0):
            loss(model(batch), batch.codes).backward()

    return forward_backward


def build_gemms(config: Config, batch: Batch) -> Work:
    """Return the bare matrix products of one forward and backward pass."""
    products = [product for shape in gemm_shapes(config, batch) for product in products_of(shape)]

    def multiply() -> None:
        for a, b, out in products:
            torch.matmul(a, b, out=out)

    return multiply


def gemm_shapes(config: Config, batch: Batch) -> list[tuple[int, int, int, int]]:
    """Return (products in a batch, rows, inner size, columns) of every product of the forward pass."""
    shapes = []

    def record(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        shapes.append((1, output[..., 0].numel(), inputs[0].shape[-1], output.shape[-1]))

    model = build_model(config).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(record)
    with torch.no_grad():
        model(batch)
    heads, positions = len(batch.labels) * config.model.num_heads, config.tokenizer.positions
    scores = (heads, positions, config.model.head_size, positions)
    values = (heads, positions, positions, config.model.head_size)
    return shapes + [scores, values] * config.model.num_layers


@functools.cache  # layers of the same shape use the same memory
def products_of(shape: tuple[int, int, int, int]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return (a, b, out) of the product, of its gradient to the one factor, and of that to the other."""
    count, rows, inner, columns = shape
    sizes = ((rows, inner), (inner, columns), (rows, columns)) * 2
    x, w, y, grad_x, grad_w, grad_y = (torch.randn((count, *size) if count > 1 else size) for size in sizes)
    return [(x, w, y), (grad_y, w.mT, grad_x), (x.mT, grad_y, grad_w)]


def compare(one: Work, other: Work, rounds: int) -> tuple[float, float, float]:
    """Return the median CPU seconds of both and the median of their ratio; they take turns in going first."""
    times: list[dict[Work, float]] = []
    one()  # allocates what it needs
    other()
    for index in range(rounds):
        measured = {}
        for work in (one, other) if index % 2 else (other, one):
            begin = time.process_time()
            work()
            measured[work] = time.process_time() - begin
        times.append(measured)
    ones, others = [time[one] for time in times], [time[other] for time in times]
    ratios = [a / b for a, b in zip(ones, others, strict=True)]
    return statistics.median(ones), statistics.median(others), statistics.median(ratios)


def print_profile(work: Work) -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    events = sorted(profiled.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True)
    total = sum(event.self_cpu_time_total for event in events)
    print(f"\n{'forward + backward':<55}{'ms':>10}{'share':>9}{'calls':>8}")
    for event in events[:PROFILED]:
        share = 100 * event.self_cpu_time_total / total
        print(f"{event.key[:54]:<55}{event.self_cpu_time_total / 1e3:>10,.1f}{share:>8.1f}%{event.count:>8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"hidden": 512, "layers": 2, "grid": 16, "batch": 16, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = parser.parse_args()
    torch.set_num_threads(1)
    config = configure(sizes.hidden, sizes.layers, sizes.grid, sizes.batch)
    batch = random_batch(config)
    model = build_forward_backward(config, batch)
    pairs = [
        (build_engine_step(config, batch), build_bare_step(config, batch)),
        (model, build_gemms(config, batch)),
    ]
    print(f"{'one thread, CPU ms':<40}{'ours':>12}{'bare':>12}{'ratio':>9}{'at most':>9}")
    for (name, target), (ours, bare) in zip(TARGETS.items(), pairs, strict=True):
        one, other, ratio = compare(ours, bare, sizes.rounds)
        print(f"{name:<40}{1e3 * one:>12,.1f}{1e3 * other:>12,.1f}{ratio:>9.3f}{target:>9.2f}")
    print_profile(model)


if __name__ == "__main__":
    main()

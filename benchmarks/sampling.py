"""How fast codes are drawn: ours against other ways to sample the same model, and against the memory of the machine.

    python benchmarks/sampling.py [--hidden 256 --layers 4 --grid 16 --batch 4 --rounds 5] [--only plain] [--compiled]

One thread, fp32, CPU time; the model is drawn at random. The two of a pair take turns in one run; reported are the
medians, and the median of the rounds' ratios. All draw the same greedy codes with linear guidance to 4. `PAIRS` says
what is compared with what; `--only` takes those whose name has the word, `--compiled` those that compile first, too.

The floor is the time to read the weights of a step once, at the speed at which this machine adds up a tensor far larger
than its caches, for a model that is as well: of one image, alone and with its null half.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.nn.functional as F
from torch import Tensor

from elm_dist.config import Grid, ModelConfig, SamplingConfig
from elm_dist.model.decoder import FoldedDecoder
from elm_dist.model.elm import ELM, Decoder, DecoderStep, code_shape, initialize, layer_specs
from elm_dist.model.folded import FoldedELM
from elm_dist.model.rotary import rope_table, rotate
from elm_dist.sampling.generate import generate

GREEDY = SamplingConfig(cfg_scale=4.0, top_k=1)
BuildDecoder = Callable[[int], DecoderStep]


class Case(NamedTuple):
    """A way to sample: its name, what it makes of a model once for many images, and settings."""

    name: str
    prepare: Callable[[ELM], BuildDecoder]
    sampling: SamplingConfig = GREEDY


class NoCache:
    """Computes everything up to the new position again."""

    def __init__(self, elm: ELM, batch: int) -> None:
        self.elm, self.inputs = elm, torch.empty(0)

    @torch.inference_mode()
    def step(self, x: Tensor, position: int, row: int = 0, outputs: int = 1) -> Tensor:
        new = self.elm.embedding.embed_codes(x) if position else self.elm.embedding.embed_classes(x)
        self.inputs = torch.cat([self.inputs, new], dim=1) if position else new
        stream = self.inputs
        for block in list(self.elm)[1:-1]:
            stream = block(stream)
        return self.elm.head(stream[:, -1:])


class GrowingCache:
    """Keeps keys and values in tensors that are made anew for each position."""

    def __init__(self, elm: ELM, batch: int) -> None:
        self.elm, self.caches = elm, [None] * (len(elm) - 2)

    @torch.inference_mode()
    def step(self, x: Tensor, position: int, row: int = 0, outputs: int = 1) -> Tensor:
        x = self.elm.embedding.embed_codes(x) if position else self.elm.embedding.embed_classes(x)
        for index, block in enumerate(list(self.elm)[1:-1]):
            attention = block.attention
            q, k, v = attention.qkv(block.attention_norm(x)).unflatten(2, (3, attention.heads, -1)).unbind(dim=2)
            table = rope_table(attention.model, attention.grid, x.device)[position : position + 1]
            q, k, v = (part.transpose(1, 2) for part in (rotate(q, table), rotate(k, table), v))
            if self.caches[index]:
                k, v = (torch.cat(pair, dim=2) for pair in zip(self.caches[index], (k, v), strict=True))
            self.caches[index] = (k, v)
            mixed = F.scaled_dot_product_attention(q, k, v)
            x = x + attention.output(mixed.transpose(1, 2).flatten(2))
            x = x + block.feed_forward(block.feed_forward_norm(x))
        return self.elm.head(x)


def plain_step(elm: ELM, caches: list[tuple[Tensor, Tensor]], x: Tensor, positions: Tensor) -> Tensor:
    """Return the logits of the stream `x` at `positions` (1,), as gpt-fast computes a token: no shape ever changes."""
    blocks = list(elm)[1:-1]
    attention = blocks[0].attention
    table = rope_table(attention.model, attention.grid, x.device)[positions]
    mask = torch.arange(attention.grid.cells) <= positions.unsqueeze(1)
    for block, (keys, values) in zip(blocks, caches, strict=True):
        attention = block.attention
        q, k, v = attention.qkv(block.attention_norm(x)).unflatten(2, (3, attention.heads, -1)).unbind(dim=2)
        q, k, v = (part.transpose(1, 2) for part in (rotate(q, table), rotate(k, table), v))
        keys[:, :, positions] = k
        values[:, :, positions] = v
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        x = x + attention.output(mixed.transpose(1, 2).flatten(2))
        x = x + block.feed_forward(block.feed_forward_norm(x))
    return elm.head(x)


class PlainLoop:
    """A cache of the full length with a mask over all of it, as in gpt-fast."""

    def __init__(self, elm: ELM, compute: Callable[..., Tensor], batch: int) -> None:
        self.elm, self.compute = elm, compute
        heads, grid = elm.block_0.attention.heads, elm.block_0.attention.grid
        shape = (batch, heads, grid.cells, elm.embedding.classes.embedding_dim // heads)
        self.caches = [(torch.zeros(shape), torch.zeros(shape)) for _ in list(elm)[1:-1]]

    @torch.inference_mode()
    def step(self, x: Tensor, position: int, row: int = 0, outputs: int = 1) -> Tensor:
        x = self.elm.embedding.embed_codes(x) if position else self.elm.embedding.embed_classes(x)
        return self.compute(self.elm, self.caches, x, torch.tensor([position]))


def ours(elm: ELM, compiled: bool = False) -> BuildDecoder:
    folded = FoldedELM(elm, compiled)
    return lambda batch: FoldedDecoder(folded, batch).step


def unfolded(elm: ELM) -> BuildDecoder:
    return lambda batch: Decoder(elm, batch).step


def plain_loop(elm: ELM, compiled: bool = False) -> BuildDecoder:
    compute = torch.compile(plain_step, dynamic=False) if compiled else plain_step
    return lambda batch: PlainLoop(elm, compute, batch).step


OURS = Case("ours", ours)
COMPILED = Case("ours compiled", partial(ours, compiled=True))
PLAIN = Case("plain loop", plain_loop)
PAIRS = [
    (OURS, Case("no cache", lambda elm: lambda batch: NoCache(elm, batch).step)),
    (OURS, PLAIN),
    (OURS, Case("growing cache", lambda elm: lambda batch: GrowingCache(elm, batch).step)),
    (OURS, Case("not folded", unfolded)),
    (Case("guided from 0.5 on", ours, GREEDY.model_copy(update={"cfg_interval": (0.5, 1.0)})), OURS),
    (Case("guided up to 0.5", ours, GREEDY.model_copy(update={"cfg_interval": (0.0, 0.5)})), OURS),
    (Case("not guided", ours, GREEDY.model_copy(update={"cfg_scale": 1.0})), OURS),
]
COMPILED_PAIRS = [
    (COMPILED, OURS),
    (COMPILED, Case("plain loop compiled", partial(plain_loop, compiled=True))),
]


def build_model(hidden: int, layers: int, grid: int) -> tuple[ModelConfig, ELM]:
    model = ModelConfig(
        num_layers=layers, hidden_size=hidden, num_heads=max(1, hidden // 64), subtokens=2, subtoken_bits=10
    )
    elm = ELM(layer_specs(model, Grid(grid, grid))).eval().requires_grad_(False)
    initialize(elm.named_parameters(), seed=0)
    for output in elm.head.outputs:  # they start at zero, which would make all codes alike
        torch.nn.init.normal_(output.weight, generator=torch.Generator().manual_seed(0))
    return model, elm


def draw(case: Case, build: BuildDecoder, model: ModelConfig, grid: int, batch: int) -> tuple[Tensor, float]:
    """Return the codes and the CPU seconds that they took."""
    begin = time.process_time()
    codes = generate(
        build,
        code_shape(model, Grid(grid, grid)),
        torch.arange(batch),
        list(range(batch)),
        model.num_classes,
        case.sampling,
    )
    return codes, time.process_time() - begin


def compare(pair: tuple[Case, Case], sizes: argparse.Namespace) -> None:
    """Print one line: the medians of both, the median ratio, and whether they drew the same."""
    model, elm = build_model(sizes.hidden, sizes.layers, sizes.grid)
    builds = {case.name: case.prepare(elm) for case in pair}
    times, same = [], True
    for index in range(sizes.rounds + 1):
        order = pair if index % 2 else pair[::-1]  # they take turns in going first
        results = {case.name: draw(case, builds[case.name], model, sizes.grid, sizes.batch) for case in order}
        (codes, one), (others, other) = (results[case.name] for case in pair)
        same = same and torch.equal(codes, others)
        times.append((1e3 * one / sizes.batch, 1e3 * other / sizes.batch))
    report(f"{pair[0].name} / {pair[1].name}", times[1:], "yes" if same else "no")  # the first round allocates


def compare_with_floor(sizes: argparse.Namespace) -> None:
    """Print, for one row and two, the milliseconds of a step and those that it takes to read its weights once."""
    _, elm = build_model(sizes.floor_hidden, sizes.floor_layers, sizes.grid)
    read = [weight for layer in list(elm)[1:] for weight in layer.parameters()]
    weights = sum(weight.numel() * weight.element_size() for weight in read)
    stream = torch.ones(2**26)  # 256 MiB
    for case in (OURS, PLAIN):
        build = case.prepare(elm)
        for rows in (1, 2):
            step, ids = build(rows), torch.zeros((rows, 1, 2), dtype=torch.int64)
            step(torch.arange(rows), 0)
            times = []
            for position in range(1, min(sizes.floor_steps, sizes.grid**2)):
                begin = time.process_time()
                step(ids, position)
                middle = time.process_time()
                stream.sum()
                per_byte = (time.process_time() - middle) / (4 * stream.numel())
                times.append((1e3 * (middle - begin), 1e3 * weights * per_byte))
            report(f"{case.name}, a step of {rows} / floor, {weights / 2**20:,.0f} MiB", times[1:], "")


def report(name: str, times: list[tuple[float, float]], note: str) -> None:
    one, other = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(one / other for one, other in times)
    print(f"{name:<42}{one:>10,.2f}{other:>10,.2f}{ratio:>8.3f}{note:>12}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = {"hidden": 256, "layers": 4, "grid": 16, "batch": 4, "rounds": 5}
    defaults |= {"floor-hidden": 1024, "floor-layers": 12, "floor-steps": 24}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="", help="a word in the names of the pairs to run; `floor` for that one")
    parser.add_argument("--compiled", action="store_true", help="also the pairs that compile, for a minute or two")
    sizes = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'one thread, CPU ms an image':<42}{'one':>10}{'other':>10}{'ratio':>8}{'same codes':>12}")
    for pair in PAIRS + (COMPILED_PAIRS if sizes.compiled else []):
        if sizes.only in f"{pair[0].name} / {pair[1].name}":
            compare(pair, sizes)
    if sizes.only in "floor":
        print(f"{'one thread, CPU ms a step':<42}{'one':>10}{'other':>10}{'ratio':>8}")
        compare_with_floor(sizes)


if __name__ == "__main__":
    main()

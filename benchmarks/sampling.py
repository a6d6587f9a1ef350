"""How fast codes are drawn: ours against no cache, against a cache as in any tutorial, and with guidance for a while.

    python benchmarks/sampling.py [--hidden 256 --layers 4 --grid 16 --batch 4 --rounds 5]

One thread, fp32, CPU time; the model is drawn at random. The two of a pair take turns in one run; reported are the
medians, and the median of the rounds' ratios. All draw the same greedy codes with linear guidance to 4. Without a cache
the whole of both halves is computed again for each position, up to that position. The tutorial's cache grows by
torch.cat, and its head computes what ours does.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.nn.functional as F
from torch import Tensor

from elm_dist.config import ModelConfig, SamplingConfig
from elm_dist.model.elm import ELM, Decoder, DecoderStep, code_shape, initialize, layer_specs
from elm_dist.model.rotary import rope_table, rotate
from elm_dist.sampling.generate import generate

GREEDY = SamplingConfig(cfg_scale=4.0, top_k=1)


class Case(NamedTuple):
    """A way to sample, named by what it is."""

    name: str
    build: Callable[[ELM, int], DecoderStep]
    sampling: SamplingConfig = GREEDY


class NoCache:
    """Computes everything up to the new position again."""

    def __init__(self, elm: ELM, batch: int) -> None:
        self.elm, self.inputs = elm, torch.empty(0)

    def step(self, x: Tensor, position: int, row: int = 0) -> Tensor:
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

    def step(self, x: Tensor, position: int, row: int = 0) -> Tensor:
        x = self.elm.embedding.embed_codes(x) if position else self.elm.embedding.embed_classes(x)
        for index, block in enumerate(list(self.elm)[1:-1]):
            attention = block.attention
            q, k, v = attention.qkv(block.attention_norm(x)).unflatten(2, (3, attention.heads, -1)).unbind(dim=2)
            table = rope_table(attention.grid, q.shape[3], x.device)[position : position + 1]
            q, k, v = (part.transpose(1, 2) for part in (rotate(q, table), rotate(k, table), v))
            if self.caches[index]:
                k, v = (torch.cat(pair, dim=2) for pair in zip(self.caches[index], (k, v), strict=True))
            self.caches[index] = (k, v)
            mixed = F.scaled_dot_product_attention(q, k, v)
            x = x + attention.output(mixed.transpose(1, 2).flatten(2))
            x = x + block.feed_forward(block.feed_forward_norm(x))
        return self.elm.head(x)


def ours(elm: ELM, batch: int) -> DecoderStep:
    return Decoder(elm, batch).step


PLAIN = Case("ours", ours)
PAIRS = [
    (PLAIN, Case("no cache", lambda elm, batch: NoCache(elm, batch).step)),
    (PLAIN, Case("growing cache", lambda elm, batch: GrowingCache(elm, batch).step)),
    (Case("guided from 0.5 on", ours, GREEDY.model_copy(update={"cfg_interval": (0.5, 1.0)})), PLAIN),
    (Case("guided up to 0.5", ours, GREEDY.model_copy(update={"cfg_interval": (0.0, 0.5)})), PLAIN),
    (Case("not guided", ours, GREEDY.model_copy(update={"cfg_scale": 1.0})), PLAIN),
]


def build_model(hidden: int, layers: int, grid: int) -> tuple[ModelConfig, ELM]:
    model = ModelConfig(
        num_layers=layers, hidden_size=hidden, num_heads=max(1, hidden // 64), subtokens=2, subtoken_bits=10
    )
    elm = ELM(layer_specs(model, grid)).eval()
    initialize(elm.named_parameters(), seed=0)
    for output in elm.head.outputs:  # they start at zero, which would make all codes alike
        torch.nn.init.normal_(output.weight, generator=torch.Generator().manual_seed(0))
    return model, elm


def draw(case: Case, model: ModelConfig, elm: ELM, grid: int, batch: int) -> tuple[Tensor, float]:
    """Return the codes and the CPU seconds that they took."""
    begin = time.process_time()
    codes = generate(
        lambda size: case.build(elm, size),
        code_shape(model, grid),
        torch.arange(batch),
        list(range(batch)),
        model.num_classes,
        case.sampling,
    )
    return codes, time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"hidden": 256, "layers": 4, "grid": 16, "batch": 4, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = parser.parse_args()
    torch.set_num_threads(1)
    model, elm = build_model(sizes.hidden, sizes.layers, sizes.grid)
    print(f"{'one thread, CPU ms an image':<40}{'one':>10}{'other':>10}{'ratio':>8}{'same codes':>12}")
    for pair in PAIRS:
        times, same = [], True
        for index in range(sizes.rounds + 1):
            order = pair if index % 2 else pair[::-1]  # they take turns in going first
            results = {case.name: draw(case, model, elm, sizes.grid, sizes.batch) for case in order}
            (codes, one), (others, other) = (results[case.name] for case in pair)
            same = same and torch.equal(codes, others)
            times.append((one, other))
        measured = times[1:]  # the first round allocates
        ones, twos = (1e3 * statistics.median(column) / sizes.batch for column in zip(*measured, strict=True))
        ratio = statistics.median(one / other for one, other in measured)
        name = f"{pair[0].name} / {pair[1].name}"
        print(f"{name:<40}{ones:>10,.1f}{twos:>10,.1f}{ratio:>8.3f}{'yes' if same else 'no':>12}")


if __name__ == "__main__":
    main()

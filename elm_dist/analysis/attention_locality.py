"""How far a model looks: the attention of each layer and head by distance on the grid (paper figure 4).

The distance is from the cell that a query predicts to the cell whose code a key holds, the larger of that in rows and
that in columns (Chebyshev): 1 is the ring of cells around it. A causal mask alone makes attention local, so each number
stands beside that of uniform attention to all that is visible. Layers count from 1 and heads from 0, as in the paper.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from elm_dist.analysis.attention_figure import draw_attention
from elm_dist.analysis.attention_weights import attention_by_layer, visible_softmax
from elm_dist.analysis.findings import Findings, Row
from elm_dist.analysis.measured_run import MeasuredRun, open_run
from elm_dist.codes.scan import scan_order
from elm_dist.config import Config, Grid
from elm_dist.errors import EvaluationError

BATCH_SIZE = 4  # images whose weights are in memory at once: 4 x 24 heads x 1024^2 positions x 4 bytes = 400 MB
MAP_HEAD = 0  # as in the paper
NEAR = (1, 2, 3)  # cells


class Distances(NamedTuple):
    """How far each key is from each query, (queries, keys) of int64; for the class `beyond`, one more than any."""

    cells: Tensor
    rows: Tensor
    beyond: int


class Locality(NamedTuple):
    """Attention by distance, mean over images and queries. Bins go from distance 0 to the class, which is the last."""

    mass: Tensor  # (heads, bins), by distance in cells, fp64: sums to 1
    row_mass: Tensor  # (heads, bins), by distance in rows alone
    entropy_bits: Tensor  # (heads,)

    @property
    def class_mass(self) -> Tensor:
        """The share of the attention that goes to the class, (heads,)."""
        return self.mass[:, -1]

    @property
    def mean_distance(self) -> Tensor:
        """In cells, of the attention that goes to cells, (heads,)."""
        cells = self.mass[:, :-1]
        return cells @ torch.arange(cells.shape[1], dtype=cells.dtype) / cells.sum(dim=1)

    def mass_within(self, distance: int) -> Tensor:
        """The share of the attention that goes to cells at most so far away, (heads,)."""
        return self.mass[:, :-1][:, : distance + 1].sum(dim=1)


class AttentionMeasures(NamedTuple):
    """What was found in a model, its uniform baseline, and average weights (queries, keys) by the number of a layer."""

    layers: list[Locality]
    uniform: Locality  # of one head
    maps: dict[int, Tensor]


def analyze_attention(
    run: Path, *, images: int = 100, step: int | None = None, layers: Sequence[int] | None = None
) -> Findings:
    """Measure the averaged weights of a run on its first validation images, with maps of `layers`.

    The inputs are the codes of the images, whatever the model would draw; a masked model has those that validation
    leaves it. The maps are those of half the depth
    and of the last layer by default. Raises an ElmError for a folder that is no run, one without such a checkpoint,
    shards that are missing or others, and layers that the model does not have.
    """
    opened = open_run(run, ("ema",), step=step, batch_size=BATCH_SIZE)
    mapped = _choose_layers(run, layers, opened.config.model.num_layers)
    images = min(images, opened.images)
    measures = measure_attention(opened, images, mapped)
    curves = [found.mass.mean(dim=0) for found in measures.layers]
    return Findings(
        name="attention_locality",
        title=f"Attention of {run} at step {opened.checkpoint.step:,} on {images:,} validation images",
        rows=[row for layer, found in enumerate(measures.layers, 1) for row in _rows(layer, found, measures.uniform)],
        summary=_summarize(measures),
        settings=opened.settings() | {"images": images, "map_head": MAP_HEAD, "map_layers": mapped},
        draw=partial(draw_attention, curves, measures.uniform.mass[0], measures.maps, f"head {MAP_HEAD}"),
    )


def _choose_layers(run: Path, layers: Sequence[int] | None, depth: int) -> list[int]:
    chosen = (depth // 2 + 1, depth) if layers is None else layers
    absent = [layer for layer in chosen if not 1 <= layer <= depth]
    if absent:
        raise EvaluationError(f"--layers {absent[0]}: {run} has the layers 1 to {depth}; name some of these")
    return sorted(set(chosen))


def measure_attention(opened: MeasuredRun, images: int, mapped: Sequence[int]) -> AttentionMeasures:
    """Return the locality of each layer, and the average weights of head `MAP_HEAD` in the `mapped` layers."""
    model, config = opened.load_model("ema"), opened.config
    distances = lay_out(config, opened.device)
    queries = len(distances.cells)
    parts: list[list[Locality]] = [[] for _ in range(config.model.num_layers)]
    maps = {layer: torch.zeros(distances.cells.shape, dtype=torch.float64) for layer in mapped}
    for batch in opened.batches(images, "attention"):
        share = len(batch[1]) / images
        for layer, weights in enumerate(attention_by_layer(model, batch), 1):
            weights = weights[:, :, -queries:]
            parts[layer - 1].append(Locality(*(share * mean for mean in measure_locality(weights, distances))))
            if layer in maps:
                maps[layer] += share * weights[:, MAP_HEAD].mean(dim=0, dtype=torch.float64).cpu()
    layers = [Locality(*(torch.stack(means).sum(dim=0) for means in zip(*found, strict=True))) for found in parts]
    return AttentionMeasures(layers, uniform_locality(distances, config.model.modelling == "autoregressive"), maps)


def lay_out(config: Config, device: torch.device) -> Distances:
    """Return the distances of a model whose sequence is the class and then codes in the order of its scan.

    Autoregressive positions predict the code after theirs; masked ones their own, and the class none.
    """
    order = torch.from_numpy(scan_order(config.model.scan, config.tokenizer.grid).copy()).to(device)
    held = torch.cat([order.new_full((1,), -1), order])
    return grid_distances(
        order, held[:-1] if config.model.modelling == "autoregressive" else held, config.tokenizer.grid
    )


def grid_distances(predicted: Tensor, held: Tensor, grid: Grid) -> Distances:
    """Return how far the cells that keys hold (keys,) are from those that queries predict (queries,).

    Cells are numbered row by row; a key that holds the class has -1.
    """
    rows = (predicted // grid.columns).unsqueeze(1) - held // grid.columns
    columns = (predicted % grid.columns).unsqueeze(1) - held % grid.columns
    beyond = max(grid.rows, grid.columns)
    cells = torch.maximum(rows.abs(), columns.abs()).masked_fill(held < 0, beyond)
    return Distances(cells, rows.abs().masked_fill(held < 0, beyond), beyond)


def measure_locality(weights: Tensor, distances: Distances) -> Locality:
    """Return the locality of weights (batch, heads, queries, keys), on the CPU."""
    average = weights.mean(dim=0, dtype=torch.float64).flatten(1)
    queries = weights.shape[2]

    def by(distance: Tensor) -> Tensor:
        bins = average.new_zeros(len(average), distances.beyond + 1)
        return bins.index_add(1, distance.flatten(), average).cpu() / queries

    entropy = torch.special.entr(weights).sum(dim=3).mean(dim=(0, 2), dtype=torch.float64).cpu() / math.log(2)
    return Locality(by(distances.cells), by(distances.rows), entropy)


def uniform_locality(distances: Distances, causal: bool) -> Locality:
    """Return the locality of one head that attends alike to all that it sees."""
    return measure_locality(visible_softmax(torch.zeros_like(distances.cells).float(), causal)[None, None], distances)


def _rows(layer: int, found: Locality, uniform: Locality) -> Iterator[Row]:
    """Yield a row for each head and distance; what is no matter of distance is the same in all rows of a head."""
    for head in range(len(found.mass)):
        for distance in range(found.mass.shape[1] - 1):
            yield {
                "layer": layer,
                "head": head,
                "distance_cells": distance,
                "mass": found.mass[head, distance].item(),
                "uniform_mass": uniform.mass[0, distance].item(),
                "row_mass": found.row_mass[head, distance].item(),
                "uniform_row_mass": uniform.row_mass[0, distance].item(),
                "class_mass": found.class_mass[head].item(),
                "mean_distance_cells": found.mean_distance[head].item(),
                "entropy_bits": found.entropy_bits[head].item(),
            }


def _summarize(measures: AttentionMeasures) -> dict[str, float | str]:
    """Return means over layers and heads, each beside that of uniform attention, and then what differs in depth."""
    every = Locality(*(torch.cat(tensors) for tensors in zip(*measures.layers, strict=True)))
    of_all, of_uniform = _numbers(every), _numbers(measures.uniform)
    summary: dict[str, float | str] = {}
    for name, number in of_all.items():
        summary |= {name: number, f"uniform_{name}": of_uniform[name]}
    heads = len(measures.layers[0].mass)
    for name, place in (("nearest", every.mean_distance.argmin()), ("farthest", every.mean_distance.argmax())):
        layer, head = divmod(int(place), heads)
        summary[f"{name}_head"] = f"layer {layer + 1}, head {head}: {every.mean_distance[place]:.2f} cells away"
    for layer, found in enumerate(measures.layers, 1):
        numbers = _numbers(found)
        summary[f"layer_{layer}"] = (
            f"{numbers['mean_distance_cells']:.2f} cells away, {numbers['mass_within_1']:.1%} within 1 cell, "
            f"{numbers['class_mass']:.1%} on the class, {numbers['entropy_bits']:.2f} bits"
        )
    return summary


def _numbers(locality: Locality) -> dict[str, float]:
    """Return means over heads."""
    within = {f"mass_within_{distance}": locality.mass_within(distance) for distance in NEAR}
    numbers = {
        "mean_distance_cells": locality.mean_distance,
        **within,
        "class_mass": locality.class_mass,
        "entropy_bits": locality.entropy_bits,
    }
    return {name: values.mean().item() for name, values in numbers.items()}

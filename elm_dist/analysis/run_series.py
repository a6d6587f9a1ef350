"""Runs in series of models that differ in size and seed alone, and what is measured of a series.

Knows nothing of what is fitted to it.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elm_dist.analysis.power_law import Measurement
from elm_dist.analysis.run_curves import RunCurve, kind_of
from elm_dist.config import Config
from elm_dist.errors import EvaluationError

SAID = {"model.subtokens", "model.subtoken_bits", "tokenizer.code_bits"}  # by the decomposition, as in 2-10


class Series:
    """Runs that differ in size and seed alone, to be compared at `horizon` images."""

    def __init__(self, name: str, curves: Sequence[RunCurve], horizon: int) -> None:
        self.name, self.kind, self.horizon = name, curves[0].kind, horizon
        self.sizes: dict[int, list[RunCurve]] = defaultdict(list)  # the seeds of each, by parameters
        for curve in sorted(curves, key=lambda curve: curve.parameters):
            self.sizes[curve.parameters].append(curve)

    def by_parameters(self) -> list[Measurement]:
        """Return the losses of each size at the horizon."""
        return [
            Measurement(parameters, tuple(seed.bits[seed.step_at(self.horizon)] for seed in seeds))
            for parameters, seeds in self.sizes.items()
        ]

    def by_images(self, parameters: int) -> list[Measurement]:
        """Return the losses of one size after its warm-up, those of its seeds together."""
        losses: dict[int, list[float]] = defaultdict(list)
        for seed in self.sizes[parameters]:
            for step in seed.settled:
                losses[seed.images(step)].append(seed.bits[step])
        return [Measurement(images, tuple(found)) for images, found in sorted(losses.items())]

    def by_flops(self, parameters: int) -> list[Measurement]:
        flops = self.sizes[parameters][0].flops
        return [Measurement(flops(point.x), point.losses) for point in self.by_images(parameters)]

    def frontier(self) -> list[Measurement]:
        """Return the measurements that no other, of whichever size, reached with as few FLOPs."""
        best: list[Measurement] = []
        every = (point for parameters in self.sizes for point in self.by_flops(parameters))
        for point in sorted(every, key=lambda point: (point.x, point.mean)):
            if not best or point.mean < best[-1].mean:
                best.append(point)
        return best


def group_runs(curves: Sequence[RunCurve]) -> list[Series]:
    """Return the series, each named by its decomposition and by what else tells it from the others.

    Raises EvaluationError if no series has two sizes, or if one run ends before another was first measured.
    """
    horizon = _horizon(curves)
    kinds: list[dict[str, Any]] = []
    for curve in curves:
        if curve.kind not in kinds:
            kinds.append(curve.kind)
    told = [key for key in kinds[0] if key not in SAID and any(kind[key] != kinds[0][key] for kind in kinds)]
    series = []
    for kind in kinds:
        decomposition = f"{kind['model.subtokens']}-{kind['model.subtoken_bits']}"
        name = " ".join([decomposition, *(f"{key.partition('.')[2]}={kind[key]}" for key in told)])
        series.append(Series(name, [curve for curve in curves if curve.kind == kind], horizon))
    if all(len(one.sizes) < 2 for one in series):
        raise EvaluationError(
            "scaling takes two sizes of a model or more, and no two of these runs differ in size alone; give runs that "
            "differ in model.num_layers, hidden_size or num_heads, and agree in all else of the model and the tokenizer"
        )
    return series


def find_series(path: Path, config: Config, series: Sequence[Series]) -> Series:
    """Return the series that the model of a configuration belongs to; raises EvaluationError if it is of none."""
    kind = kind_of(config)
    differences = [[key for key in kind if one.kind[key] != kind[key]] for one in series]
    keys, name = min(zip(differences, (one.name for one in series), strict=True), key=lambda found: len(found[0]))
    if keys:
        raise EvaluationError(
            f"--predict {path}: its {', '.join(keys)} is not as in the runs of {name}, and laws hold for models that "
            "differ in size alone; give a configuration that agrees in it"
        )
    return series[differences.index(keys)]


def _horizon(curves: Sequence[RunCurve]) -> int:
    """Return the largest number of images at or beyond which every run was measured."""
    shortest = min(curves, key=lambda curve: curve.images(curve.settled[-1]))
    horizon = shortest.images(shortest.settled[-1])
    for curve in curves:
        if (first := curve.images(curve.settled[0])) > horizon:
            raise EvaluationError(
                f"{curve.run} was first measured at {first:,} images, and {shortest.run} ends at {horizon:,}, so that "
                "they do not compare; train the second further, or leave it out"
            )
    return horizon

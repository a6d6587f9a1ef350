"""How the loss falls with parameters, compute and images: `elm analyze scaling`.

Laws are fitted to three things, in bits per code bit: the losses of all sizes after the images that every run has seen;
the frontier, the best loss of any size for its training FLOPs; and the curve of each size. Read next: `run_curves.py`,
`run_series.py`, `power_law.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from elm_dist.analysis.findings import Findings, Row
from elm_dist.analysis.power_law import Facts, FittedLaw, Measurement, fit_power_law
from elm_dist.analysis.run_curves import nats_per_subtoken, read_curves
from elm_dist.analysis.run_series import Series, find_series, group_runs
from elm_dist.analysis.scaling_figure import Laws, draw_scaling
from elm_dist.config import Config
from elm_dist.config_file import load_config
from elm_dist.errors import EvaluationError
from elm_dist.model.cost import count_parameters, training_flops_per_image

FAR = 4  # times the largest that was measured; beyond it a law is a guess
MOST_POINTS = 40  # of a curve to fit, evenly on a log scale: its end has many, and all of them say the same


def analyze_scaling(
    runs: Sequence[Path], *, predict: Sequence[Path] = (), bootstrap: int = 1000, seed: int = 0
) -> Findings:
    """Return the laws of the runs, and what they say of the configurations `predict`.

    Raises an ElmError for folders without losses, for runs of which no two differ in size alone or that cannot be
    compared, and for configurations of other models.
    """
    split, curves = read_curves(runs)
    series = group_runs(curves)
    foreseen = [(path, config, find_series(path, config, series)) for path, config in _load(predict)]
    laws = {one.name: _fit(one, bootstrap, seed) for one in series}
    summary: dict[str, Any] = {
        "loss": f"{split}, in bits per code bit; sizes compare at {series[0].horizon:,} images, as every run saw them"
    }
    for one in series:
        summary |= _describe(one, laws[one.name])
    for path, config, one in foreseen:
        summary |= _predict(path, config, one, laws[one.name])
    settings = {
        "runs": {str(run.run): {"seed": run.config.run.seed, "shards": str(run.config.data.shards)} for run in curves},
        "series": {one.name: one.kind for one in series},
        "split": split,
        "images": series[0].horizon,
        "bootstrap": bootstrap,
        "seed": seed,
    }
    title = "Loss against parameters, compute and images"
    loss = f"{split} loss, bits per code bit"
    return Findings("scaling", title, _rows(series, split), summary, settings, lambda: draw_scaling(series, laws, loss))


def _load(configs: Sequence[Path]) -> list[tuple[Path, Config]]:
    return [(path, load_config(path)) for path in configs]


def _fit(series: Series, bootstrap: int, seed: int) -> Laws:
    """Return the laws of a series; a series of one size has none that compares sizes."""

    def fit(points: list[Measurement]) -> FittedLaw | None:
        return fit_power_law(_thin(points), bootstrap=bootstrap, seed=seed) if len(points) > 1 else None

    has_sizes = len(series.sizes) > 1
    return Laws(
        parameters=fit(series.by_parameters()),
        flops=fit(series.frontier()) if has_sizes else None,
        images={parameters: fit(series.by_images(parameters)) for parameters in series.sizes},
    )


def _thin(points: list[Measurement]) -> list[Measurement]:
    """Return the points, in order, or `MOST_POINTS` of them that lie evenly on a log scale."""
    if len(points) <= MOST_POINTS:
        return points
    x = np.array([point.x for point in points])
    nearest = np.abs(np.log(x) - np.log(np.geomspace(x[0], x[-1], MOST_POINTS))[:, None]).argmin(axis=1)
    return [points[place] for place in dict.fromkeys(nearest.tolist())]


def _describe(series: Series, laws: Laws) -> dict[str, Facts]:
    """Return the loss of each size and the laws, by what they are of."""
    said = {f"{series.name}, {point.x:,} parameters": _mean(point) for point in series.by_parameters()}
    named = {"parameters": laws.parameters, "training FLOPs, the best of all sizes": laws.flops}
    named |= {f"images, {parameters:,} parameters": law for parameters, law in laws.images.items()}
    return said | {f"{series.name} against {name}": law.facts() for name, law in named.items() if law}


def _mean(point: Measurement) -> Facts:
    seeds = len(point.losses)
    deviation = float(np.std(point.losses, ddof=1)) if seeds > 1 else None
    spread = f", mean of {seeds} seeds with a standard deviation of {deviation:.4f}" if deviation is not None else ""
    return Facts(f"{point.mean:.4f}{spread}", bits_per_code_bit=point.mean, seeds=seeds, standard_deviation=deviation)


def _predict(path: Path, config: Config, series: Series, laws: Laws) -> dict[str, Facts]:
    """Return what the laws say of a configuration: of its size at the horizon, and of the compute it is to have."""
    if laws.parameters is None or laws.flops is None:
        raise EvaluationError(
            f"--predict {path}: it belongs to the runs of {series.name}, which are of one size; give runs of another"
        )
    parameters = count_parameters(config.model, config.tokenizer.grid)
    images = config.schedule.total_steps * config.schedule.global_batch_size
    flops = float(images * training_flops_per_image(config.model, config.tokenizer.grid))
    return {
        f"{path}, {parameters:,} parameters at {series.horizon:,} images": _foresee(
            laws.parameters, parameters, config
        ),
        f"{path}, {flops:.3g} training FLOPs": _foresee(laws.flops, flops, config),
    }


def _foresee(law: FittedLaw, x: float, config: Config) -> Facts:
    bits, interval, times = float(law.law(x)), law.interval(x), x / law.largest
    nats = nats_per_subtoken(bits, config)
    between = f"[{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "with no interval"
    warning = f"; WARNING: this is {times:.3g} times the largest that was measured, so a guess" if times > FAR else ""
    return Facts(
        f"{bits:.4f} bits per code bit {between}, {nats:.4f} nats per sub-token{warning}",
        bits_per_code_bit=bits,
        interval_95_percent=interval,
        loss_nats=nats,
        times_the_largest=times,
        is_far=times > FAR,
    )


def _rows(series: Sequence[Series], split: str) -> list[Row]:
    return [
        {
            "series": one.name,
            "run": str(curve.run),
            "seed": curve.config.run.seed,
            "parameters": curve.parameters,
            "step": step,
            "images": curve.images(step),
            "training_flops": float(curve.flops(curve.images(step))),
            f"{split}_bits_per_code_bit": bits,
            f"{split}_loss_nats": nats_per_subtoken(bits, curve.config),
            "is_fitted": step in curve.settled,
        }
        for one in series
        for seeds in one.sizes.values()
        for curve in seeds
        for step, bits in curve.bits.items()
    ]

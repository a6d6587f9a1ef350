"""What the jobs measured, gathered from the files that they left: one number for a variant, a seed and a measure.

Knows nothing of what the numbers mean.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from elm_dist.study.plan import StudyPlan
from elm_dist.study.spread import Layout
from elm_dist.study.variants import SEEDS, SIZES, TOKENIZERS, VARIANTS

DISTANCE = "FD-MobileNetV2"


class Measure(NamedTuple):
    """What a column of numbers is."""

    label: str
    lower_is_better: bool
    form: str  # of a number in the page
    paired: bool = True  # seeds order the data alike for all variants


MEASURES = {
    "bits": Measure("validation bits per code bit", True, ".4f"),
    "masked_bits": Measure("bits per hidden code bit", True, ".4f"),
    "fd": Measure(f"{DISTANCE} of samples", True, ".1f"),
    "guided_fd": Measure(f"{DISTANCE} of samples", True, ".1f"),
    "attention_distance": Measure("mean distance attended to, as a share of uniform attention's", False, ".3f"),
    "psnr_db": Measure("PSNR of reconstructions, dB", False, ".2f", paired=False),
    "reconstruction_fd": Measure(f"{DISTANCE} of reconstructions", True, ".1f", paired=False),
    "utilisation_percent": Measure("codes that occur, %", False, ".1f", paired=False),
    "unigram_kl_nats": Measure("KL of codes to uniform over those that occur, nats", True, ".3f", paired=False),
}


class Result(NamedTuple):
    measure: str
    variant: str
    seed: int
    value: float


def gather_results(plan: StudyPlan) -> list[Result]:
    """Return the results of all jobs, which must be done."""
    return [*_of_models(plan), *_of_tokenizers(plan), *_of_attention(plan), *_of_guidance(plan)]


def lay_out(results: Sequence[Result], measure: str) -> Layout:
    """Return the values of one measure."""
    values = {(result.variant, result.seed): result.value for result in results if result.measure == measure}
    return Layout(values, MEASURES[measure].paired)


def to_csv(results: Sequence[Result]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Result._fields)
    writer.writerows((*result[:3], f"{result.value:.7g}") for result in results)
    return text.getvalue()


def from_csv(text: str) -> list[Result]:
    rows = csv.DictReader(io.StringIO(text))
    return [Result(row["measure"], row["variant"], int(row["seed"]), float(row["value"])) for row in rows]


def _of_models(plan: StudyPlan) -> Iterator[Result]:
    for variant in VARIANTS:
        for seed, run in zip(variant.seeds, variant.runs(), strict=True):
            bits = _read(plan.out / "losses" / f"{run}.json")["scores"]["ema validation/bits_per_code_bit"]
            yield Result("masked_bits" if variant.name == "masked" else "bits", variant.name, seed, bits)
            scores = _read(plan.out / "scores" / f"{run}.json")["scores"]
            yield Result("fd", variant.name, seed, scores[DISTANCE])


def _of_tokenizers(plan: StudyPlan) -> Iterator[Result]:
    for name in TOKENIZERS:
        for seed in SEEDS:
            report = _read(plan.out / "reports" / f"{name}-{seed}" / "report.json")
            codes = report["codes"]
            yield Result("psnr_db", name, seed, report["psnr_db"]["mean"])
            yield Result("reconstruction_fd", name, seed, report["frechet_distance"]["reconstruction"])
            yield Result("utilisation_percent", name, seed, 100 * codes["utilization"])
            divergence = math.log(codes["used"]) - math.log(2) * codes["entropy_bits"]
            yield Result("unigram_kl_nats", name, seed, divergence)


def _of_attention(plan: StudyPlan) -> Iterator[Result]:
    for name in SIZES:
        for seed in SEEDS:
            file = plan.out / "analyses" / f"attention-{name}-{seed}" / "attention_locality.json"
            found = _read(file)["summary"]
            share = found["mean_distance_cells"] / found["uniform_mean_distance_cells"]
            yield Result("attention_distance", name, seed, share)


def _of_guidance(plan: StudyPlan) -> Iterator[Result]:
    for seed in SEEDS:
        with (plan.out / "analyses" / f"sampling-{seed}" / "sampling.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                variant = f"{row['schedule']} {float(row['scale']):g}"
                yield Result("guided_fd", variant, seed, float(row[DISTANCE]))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))

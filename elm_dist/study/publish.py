"""Writes what a study found into one folder: its numbers, its figures, a picture, and the page that explains them."""

import json
import os
import platform
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from elm_dist.analysis.study_figures import draw_spread
from elm_dist.config_file import load_config
from elm_dist.data.shards import load_manifest
from elm_dist.files import replace_text
from elm_dist.model.cost import count_parameters
from elm_dist.study.claims import FINDINGS
from elm_dist.study.jobs import Record
from elm_dist.study.page import render_page
from elm_dist.study.pictures import draw_samples
from elm_dist.study.plan import StudyPlan
from elm_dist.study.results import MEASURES, Result, gather_results, lay_out, to_csv
from elm_dist.study.variants import BASE, VARIANTS

PAGE, NUMBERS, FACTS, COMMANDS = "README.md", "results.csv", "study.json", "commands.txt"
DRAWN = ("fd", "bits")  # measures of models that get a figure of their own


def publish_study(plan: StudyPlan, records: Mapping[str, Record], folder: Path) -> None:
    """Write the page of a study, all jobs of which are done, and everything that it shows."""
    results, facts = gather_results(plan), _facts(plan, records, folder)
    replace_text(folder / NUMBERS, to_csv(results))
    replace_text(folder / FACTS, json.dumps(facts, indent=1) + "\n")
    replace_text(folder / COMMANDS, "".join(f"elm {command}\n" for job in plan.jobs() for command in job.commands))
    for measure in DRAWN:
        replace_text(folder / f"{measure}.svg", _draw(results, measure))
    for name in {figure for finding in FINDINGS for figure in finding.figures}:
        shutil.copyfile(_find_figure(plan, name), folder / f"{name}.svg")
    draw_samples(plan, folder / "samples.png")
    replace_text(folder / PAGE, render_page(results, facts))


def _draw(results: Sequence[Result], measure: str) -> str:
    layout = lay_out(results, measure)
    others = [variant for variant in layout.variants if variant != BASE]
    values = {name: layout.of(name) for name in (BASE, *others)}
    return draw_spread(MEASURES[measure].label, values, {name: layout.difference(name, BASE) for name in others})


def _find_figure(plan: StudyPlan, name: str) -> Path:
    """Return the figure of an analysis: of that name, or the only one in the folder of that name."""
    analyses = plan.out / "analyses"
    own = sorted((analyses / name).glob("*.svg"))
    return own[0] if own else next(analyses.glob(f"*/{name}.svg"))


def _facts(plan: StudyPlan, records: Mapping[str, Record], folder: Path) -> dict[str, Any]:
    config = load_config(plan.config, list(plan.overrides))
    command = ["elm", "study", plan.config, "--out", plan.out, "--page", folder, *plan.overrides]
    manifest = load_manifest(plan.codes("bernoulli"))
    return {
        "config": str(plan.config),
        "command": shlex.join(map(str, command)),
        "machine": _machine(),
        "torch": torch.__version__,
        "jobs": len(records),
        "cpu_hours": round(sum(record.cpu_seconds for record in records.values()) / 3600, 2),
        "dataset": config.tokenizer_training.images.name,
        "train_images": manifest.samples("train"),
        "validation_images": manifest.samples("validation"),
        "samples": plan.per_class * config.model.num_classes,
        "steps": config.schedule.total_steps,
        "batch": config.schedule.global_batch_size,
        "tokenizer_steps": config.tokenizer_training.total_steps,
        "parameters": {variant.name: _count_parameters(plan, variant.settings) for variant in VARIANTS},
        "guidance": f"{config.sampling.cfg_schedule} {config.sampling.cfg_scale:g}",
        "cpu_seconds_by_kind": _by_kind(records),
    }


def _count_parameters(plan: StudyPlan, settings: Sequence[str]) -> int:
    config = load_config(plan.config, [*plan.overrides, *settings])
    return count_parameters(config.model, config.tokenizer.grid)


def _by_kind(records: Mapping[str, Record]) -> dict[str, float]:
    """Return the CPU seconds of all jobs of a kind, the first word of their names."""
    kinds: dict[str, float] = {}
    for name, record in records.items():
        kind = name.partition("/")[0]
        kinds[kind] = round(kinds.get(kind, 0) + record.cpu_seconds, 1)
    return kinds


def _machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {name}"

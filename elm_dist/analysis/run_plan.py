"""What was planned of a run beside what was measured, as plain numbers. Plans no GPU: its figures are passed in.

The bubble of a pipeline follows from its schedule and its layers' FLOPs, whatever computes them.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from elm_dist.analysis.run_record import RunRecord
from elm_dist.model.cost import layer_forward_flops
from elm_dist.monitoring import metrics as names
from elm_dist.parallel.layout import plan_layout
from elm_dist.parallel.partition import plan_stages
from elm_dist.parallel.schedule import PartCost, ScheduleName, build_schedule, simulate


@dataclass(frozen=True)
class Planned:
    """What `elm plan` says of the run on the machines that it had."""

    machines: str  # such as "16 x a100-80gb"
    images_per_second: float
    step_seconds: float
    mfu_percent: float
    memory_gib: float  # of the fullest stage
    bubble_percent: float


class Comparison(NamedTuple):
    """One quantity, planned and measured."""

    name: str
    planned: float
    measured: float
    unit: str


def compare(record: RunRecord, planned: Planned | None) -> list[Comparison]:
    """Return what is known from both sides; medians where a quantity was measured many times."""
    expected = {"bubble_percent": scheduled_bubble(record)} if planned is None else vars(planned)
    found = [
        ("images per second", expected.get("images_per_second"), record.median(names.IMAGES_PER_SECOND), ""),
        ("seconds of a step", expected.get("step_seconds"), record.median(names.STEP_SECONDS), ""),
        ("MFU", expected.get("mfu_percent"), record.median(names.MFU_PERCENT), " %"),
        ("memory of the fullest stage", expected.get("memory_gib"), record.memory_gib, " GiB"),
        ("pipeline bubble", expected.get("bubble_percent"), record.median(names.BUBBLE_PERCENT), " %"),
    ]
    return [
        Comparison(name, planned_value, measured, unit)
        for name, planned_value, measured, unit in found
        if planned_value is not None and measured is not None
    ]


def scheduled_bubble(record: RunRecord) -> float | None:
    """Return the percentage of a step in which stages wait, if a backward pass costs two forwards and links nothing.

    None without a pipeline, and before the first start.
    """
    config = record.config
    if config.parallel.pipeline_stages == 1 or not record.processes:
        return None
    layout = plan_layout(config, record.processes)
    flops = layer_forward_flops(config.model, config.tokenizer.grid)
    work = [float(sum(flops[begin:end])) for begin, end in pairwise(plan_stages(config, layout.parts))]
    costs = [PartCost(forward=each, input_gradient=each, weight_gradient=each) for each in work]
    name: ScheduleName = layout.schedule  # type: ignore[assignment]
    return 100 * simulate(build_schedule(name, layout.stages, layout.accumulation), costs).bubble

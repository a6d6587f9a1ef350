"""A plan as tables for people, as JSON for machines. Computes nothing that a plan does not hold."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from elm_dist.model.cost import count_parameters
from elm_dist.planning.hardware import GIB
from elm_dist.planning.plan import USABLE, Plan
from elm_dist.planning.search import Change, choice_of

ADVICE = 3  # changes that are shown
RANKED = 15  # layouts of a search that are shown
SHORT = {"gradients": "grads", "optimizer": "optim", "activations": "activ", "workspace": "work"}
LIMITS = {
    "compute": "compute",
    "bubble": "waiting for other stages",
    "network": "the network between replicas",
    "update": "the update of the weights",
}


def report_plan(plan: Plan, changes: Sequence[Change]) -> RenderableType:
    """Return the memory of each stage, the time of a step, what limits it, and what to change first."""
    return Group(
        f"{count_parameters(plan.config.model, plan.config.tokenizer.grid):,} parameters on {plan.cluster.gpus} GPUs",
        str(plan.layout),
        "",
        _memory_table(plan),
        *_host_lines(plan),
        "",
        _time_table(plan),
        "",
        *_advice_lines(plan, changes),
    )


def _memory_table(plan: Plan) -> Table:
    table = _table("stage", "parameters", title="GiB of one rank, at its fullest")
    names = [name for name in plan.stages[0][1].parts if any(memory.parts[name] for _, memory in plan.stages)]
    for name in [*(SHORT.get(name, name) for name in names), "total", "GPU"]:
        table.add_column(name, justify="right")
    for stage, (parameters, memory) in enumerate(plan.stages):
        cells = [f"{memory.parts[name] / GIB:.1f}" for name in names]
        share = f"{memory.total / plan.cluster.gpu.memory:.0%}"
        table.add_row(str(stage), f"{parameters / 1e6:,.1f}M", *cells, f"{memory.total / GIB:.1f}", share)
    return table


def _table(*columns: str, title: str | None = None) -> Table:
    return Table(*columns, title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))


def _host_lines(plan: Plan) -> list[str]:
    host = max(memory.host for _, memory in plan.stages) * plan.cluster.gpus_per_node
    return [f"and {host / GIB:.0f} GiB of main memory on each node, offloaded"] if host else []


def _time_table(plan: Plan) -> Table:
    step = plan.step
    table = _table()
    table.show_header = False
    parts = ", ".join(f"{seconds / step.total:.0%} {name}" for name, seconds in step.parts.items() if seconds)
    table.add_row("step", f"{step.total:.3f} s: {parts}")
    table.add_row("speed", f"{plan.images_per_second:,.0f} images/s, {plan.tokens_per_second:,.0f} codes/s")
    table.add_row("MFU", f"{plan.mfu:.1%} ({plan.conventional_mfu:.1%} by 6 N + 12 L h s for each token)")
    table.add_row("run", f"{_duration(plan.hours)}, {plan.gpu_hours:,.1f} GPU-hours")
    table.add_row("limit", _limit(plan))
    return table


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours:.1f} hours" if hours >= 2 else f"{60 * hours:.1f} minutes"


def _limit(plan: Plan) -> str:
    if not plan.fits:
        return f"memory: {plan.memory_share:.0%} of the GPU's, and at most {USABLE:.0%} may be planned"
    parts = plan.step.parts
    return LIMITS[max(parts, key=lambda name: parts[name])]


def _advice_lines(plan: Plan, changes: Sequence[Change]) -> list[str]:
    if not changes:
        end = "is faster" if plan.fits else "fits; take more or larger GPUs, or offload (parallel.offload=[optimizer])"
        return [f"Nothing that differs in one setting {end}."]
    lines = ["Change first:"]
    for settings, other in changes[:ADVICE]:
        effect = f"{_duration(other.hours)} instead of {_duration(plan.hours)}, {other.memory / GIB:.1f} GiB"
        lines.append(f"  {' '.join(settings)}: {effect}")
    return lines


def report_search(plans: Sequence[Plan]) -> RenderableType:
    """Return the first of `plans`, which all fit, as a table."""
    table = _table(
        *("stages", "ZeRO", "images", "recompute", "schedule", "step s", "run", "MFU", "bubble", "GiB"),
        title=f"{len(plans)} layouts fit; the fastest, with images of a micro-batch:",
    )
    for plan in plans[:RANKED]:
        stages, zero, images, recompute, schedule = choice_of(plan)
        table.add_row(
            *(str(stages), str(zero), str(images), str(recompute), schedule if stages > 1 else "-"),
            *(f"{plan.step.total:.3f}", _duration(plan.hours), f"{plan.mfu:.1%}"),
            *(f"{plan.step.bubble / plan.step.total:.0%}", f"{plan.memory / GIB:.1f}"),
        )
    return table


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Return the plan for JSON: bytes, seconds and shares."""
    return {
        "parameters": count_parameters(plan.config.model, plan.config.tokenizer.grid),
        "layout": {
            "gpus": plan.cluster.gpus,
            "replicas": plan.layout.replicas,
            "accumulation": plan.layout.accumulation,
            **choice_of(plan)._asdict(),
        },
        "stages": [
            {"parameters": parameters, "bytes": memory.parts, "total": memory.total, "host_bytes": memory.host}
            for parameters, memory in plan.stages
        ],
        "fits": plan.fits,
        "memory_share": plan.memory_share,
        "step_seconds": plan.step.total,
        "step_parts": plan.step.parts,
        "images_per_second": plan.images_per_second,
        "codes_per_second": plan.tokens_per_second,
        "mfu": plan.mfu,
        "conventional_mfu": plan.conventional_mfu,
        "hours": plan.hours,
        "gpu_hours": plan.gpu_hours,
    }


def describe_changes(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Return the advice for JSON."""
    return [
        {"settings": list(settings), "hours": plan.hours, "memory_share": plan.memory_share}
        for settings, plan in changes
    ]

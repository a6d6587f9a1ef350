"""Other layouts of the same run: all that the rules allow, or those that differ in one setting. Training is unchanged.

None of what is varied here changes what the run learns: the global batch stays as it is.
"""

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple

from elm_dist.config import Config
from elm_dist.config_rules.every_rule import broken_rules
from elm_dist.errors import LayoutError
from elm_dist.parallel.layout import plan_layout
from elm_dist.planning.hardware import Cluster
from elm_dist.planning.plan import Plan, plan_run

SCHEDULES = ("1f1b", "dualpipev", "zbv")
RECOMPUTE = (0, 1, 2)  # parallel.checkpoint_every_blocks: no block, every, every second
# Micro-batches of a pipeline, times its stages: with fewer it mostly waits, with more it waits hardly less.
FEWEST, MOST = 1, 8
NOTICEABLE = 1.02  # advice must save this much


class Choice(NamedTuple):
    """What the search varies."""

    stages: int
    zero: int
    micro_batch: int
    recompute: int
    schedule: str


class Change(NamedTuple):
    """Another plan, and the settings by which it differs, as overrides of the command line."""

    settings: tuple[str, ...]
    plan: Plan


def choice_of(plan: Plan) -> Choice:
    parallel = plan.config.parallel
    return Choice(
        parallel.pipeline_stages,
        parallel.zero_stage,
        plan.config.schedule.micro_batch_size,
        parallel.checkpoint_every_blocks,
        plan.layout.schedule if plan.layout.stages > 1 else "1f1b",
    )


def search_layouts(config: Config, cluster: Cluster) -> list[Plan]:
    """Return all plans that fit, the fastest first; of equally fast ones that with more memory left.

    Raises LayoutError where none does.
    """
    choices = product(
        _divisors(cluster.gpus), range(4), _divisors(config.schedule.global_batch_size), RECOMPUTE, SCHEDULES
    )
    plans = [plan for plan in _plans(config, cluster, (Choice(*choice) for choice in choices)) if plan.fits]
    if not plans:
        raise LayoutError(
            f"none of the layouts that the rules allow fits on {cluster.gpus} of these GPUs; take more of them or "
            "larger ones, or offload with parallel.offload=[optimizer]"
        )
    return sorted(plans, key=lambda plan: (plan.step.total, plan.memory))


def advise(plan: Plan) -> list[Change]:
    """Return the changes of one setting after which the run fits and is faster, the fastest first.

    Where the run does not fit at all, those after which it fits.
    """
    changes = []
    mine = choice_of(plan)
    for other in _plans(plan.config, plan.cluster, _neighbours(mine, plan)):
        is_faster = other.step.total * NOTICEABLE < plan.step.total
        if other.fits and (is_faster or not plan.fits):
            changes.append(Change(settings_between(mine, choice_of(other)), other))
    return sorted(changes, key=lambda change: change.plan.step.total)


def settings_between(mine: Choice, other: Choice) -> tuple[str, ...]:
    """Return what makes `other` of `mine`, as overrides."""
    names = (
        "parallel.pipeline_stages",
        "parallel.zero_stage",
        "schedule.micro_batch_size",
        "parallel.checkpoint_every_blocks",
        "parallel.schedule",
    )
    return tuple(f"{name}={after}" for name, before, after in zip(names, mine, other, strict=True) if after != before)


def _neighbours(mine: Choice, plan: Plan) -> Iterator[Choice]:
    """Yield what differs in one setting; more stages than one come with ZeRO 1, which they need."""
    yield from (mine._replace(zero=zero) for zero in range(4))
    yield from (mine._replace(recompute=recompute) for recompute in RECOMPUTE)
    yield from (mine._replace(micro_batch=images) for images in _divisors(plan.config.schedule.global_batch_size))
    for stages in _divisors(plan.cluster.gpus):
        yield mine._replace(stages=stages, zero=1 if stages > 1 else mine.zero, schedule="1f1b")
    if mine.stages > 1:
        yield from (mine._replace(schedule=schedule) for schedule in SCHEDULES)


def _plans(config: Config, cluster: Cluster, choices: Iterable[Choice]) -> Iterator[Plan]:
    """Yield the plans of what the rules and the number of processes allow."""
    for choice in choices:
        if choice.stages == 1 and choice.schedule != "1f1b":
            continue  # the same run three times
        changed = _changed(config, choice)
        if changed is None:
            continue
        try:
            accumulation = plan_layout(changed, cluster.gpus).accumulation
        except LayoutError:
            continue
        if choice.stages == 1 or FEWEST <= accumulation / choice.stages <= MOST:
            yield plan_run(changed, cluster)


def _changed(config: Config, choice: Choice) -> Config | None:
    """Return `config` with the choice, None where the rules forbid it."""
    is_same = choice.stages == config.parallel.pipeline_stages
    parallel: dict[str, Any] = {
        "pipeline_stages": choice.stages,
        "zero_stage": choice.zero,
        "checkpoint_every_blocks": choice.recompute,
        "schedule": choice.schedule,
        # Boundaries by hand are those of one number of stages.
        "stage_boundaries": config.parallel.stage_boundaries if is_same else (),
    }
    sections = dict(config)
    sections["parallel"] = config.parallel.model_copy(update=parallel)
    sections["schedule"] = config.schedule.model_copy(update={"micro_batch_size": choice.micro_batch})
    return None if broken_rules(sections) else config.model_copy(update=sections)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]

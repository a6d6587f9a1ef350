"""Every layout against one process: 50 steps over gloo, on random codes, with every dropout on.

Ten minutes on two cores. With `-s` it prints what it measured, as the table of `docs/parallelism.md`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import groupby, product
from typing import NamedTuple

import pytest
import torch
from curves import Run, largest_relative_difference, train_groups

pytestmark = pytest.mark.slow

STEPS = 50
SCHEDULES = ("1f1b", "dualpipev", "zbv")
# Unlike Adam it shows gradients that are scaled wrongly. At 0.5 this training is chaotic: replicas keep within 2e-8 for
# 20 steps and are 4e-3 apart after 50, which is the same rounding, many times doubled.
SGD = ["optimizer.name=sgd", "optimizer.learning_rate=0.2"]
OPTIMIZERS = {"SGD": SGD, "AdamW": [], "AdamW bf16": ["parallel.precision=bf16"]}
ROUNDING = 1e-6  # of losses and first norms in fp32, relative
WEIGHT_ROUNDING = 1e-5  # in fp32, of any element; Adam divides by gradients that may be tiny
BF16_ROUNDING = 1e-3  # other batches move these losses by up to 4e-3


class Case(NamedTuple):
    """A training and what it must agree with: `bound` is that of all losses, relative, and 0 means every bit."""

    processes: int
    stages: int
    overrides: list[str]
    reference: str
    bound: float = 0.0


def blocks(stages: int) -> list[str]:
    """Return the model for so many stages: two blocks each, and micro-batches enough for schedules that fold."""
    return [f"model.num_layers={2 * stages}", "schedule.micro_batch_size=1"] if stages > 2 else []


def pipeline(stages: int, schedule: str) -> list[str]:
    return [f"parallel.pipeline_stages={stages}", f"parallel.schedule={schedule}", *blocks(stages)]


def one_process() -> dict[str, Case]:
    found = {f"alone, {name}": Case(1, 1, overrides, f"alone, {name}") for name, overrides in OPTIMIZERS.items()}
    found["alone, AdamW bf16"] = found["alone, AdamW bf16"]._replace(reference="alone, AdamW", bound=BF16_ROUNDING)
    for stages, name in ((4, "SGD"), (4, "AdamW"), (8, "SGD")):
        key = f"alone, {2 * stages} blocks, {name}"
        found[key] = Case(1, 1, blocks(stages) + OPTIMIZERS[name], key)
    return found


def pipelines() -> dict[str, Case]:
    found = {}
    for stages, optimizers in ((2, tuple(OPTIMIZERS)), (4, ("SGD", "AdamW")), (8, ("SGD",))):
        deep = f"{2 * stages} blocks, " if stages > 2 else ""
        for schedule in SCHEDULES:
            for name in optimizers:
                overrides = pipeline(stages, schedule) + OPTIMIZERS[name]
                found[f"{stages} stages, {schedule}, {name}"] = Case(stages, stages, overrides, f"alone, {deep}{name}")
    for schedule in ("1f1b", "dualpipev"):  # zbv goes with no recomputation
        for every in (1, 2):
            overrides = [*pipeline(2, schedule), *SGD, f"parallel.checkpoint_every_blocks={every}"]
            found[f"2 stages, {schedule}, recompute {every}, SGD"] = Case(2, 2, overrides, "alone, SGD")
    return found


def stages_and_replicas() -> dict[str, Case]:
    """A replica of 2 x 4 has two micro-batches, too few for the schedules that fold."""
    found = {}
    for stages, replicas, schedules in ((2, 2, SCHEDULES), (2, 4, ("1f1b",)), (4, 2, SCHEDULES)):
        reference = "alone, SGD" if stages == 2 else "alone, 8 blocks, SGD"
        for schedule in schedules:
            overrides = pipeline(stages, schedule) + SGD
            name = f"{stages} stages x {replicas} replicas, {schedule}, SGD"
            found[name] = Case(stages * replicas, stages, overrides, reference, ROUNDING)
    return found


def replicas() -> dict[str, Case]:
    found = {}
    for count, zero, name in product((2, 4), range(4), OPTIMIZERS):
        if (name == "AdamW bf16" and zero == 0) or (name != "SGD" and count == 4):  # refused; would only take its time
            continue
        overrides = [*OPTIMIZERS[name], f"parallel.zero_stage={zero}"]
        bound = BF16_ROUNDING if name == "AdamW bf16" else ROUNDING
        found[f"{count} replicas, ZeRO {zero}, {name}"] = Case(count, 1, overrides, f"alone, {name}", bound)
    more = {
        "ZeRO 1, offloaded optimizer, AdamW": ["parallel.zero_stage=1", "parallel.offload=[optimizer]"],
        "ZeRO 2, offloaded optimizer, AdamW": ["parallel.zero_stage=2", "parallel.offload=[optimizer]"],
        "ZeRO 3, all offloaded, AdamW": ["parallel.zero_stage=3", "parallel.offload=[optimizer, parameters]"],
        "ZeRO 2, recompute 1, AdamW": ["parallel.zero_stage=2", "parallel.checkpoint_every_blocks=1"],
        "ZeRO 3, recompute 2, AdamW": ["parallel.zero_stage=3", "parallel.checkpoint_every_blocks=2"],
    }
    return found | {f"2 replicas, {name}": Case(2, 1, cases, "alone, AdamW", ROUNDING) for name, cases in more.items()}


CASES = one_process() | pipelines() | stages_and_replicas() | replicas()
COMPARED = [name for name, case in CASES.items() if case.reference != name]
EXACT = [name for name in COMPARED if not CASES[name].bound]
NEAR = [name for name in COMPARED if CASES[name].bound]


class Difference(NamedTuple):
    """Of a case from its reference; relative where it is of losses and norms."""

    losses: float
    norm: float | None  # of the gradients of the first step, when all weights are still the same
    weights: float  # largest of any element
    is_exact: bool  # every loss and every tensor: weights, their average, moments


def compare(one: Run, other: Run) -> Difference:
    assert other.tensors.keys() == one.tensors.keys()
    norm, expected = other.facts[0]["norms"][0], one.facts[0]["norms"][0]
    weights = [name for name in one.tensors if name.startswith("weights/")]
    return Difference(
        losses=largest_relative_difference(one.losses, other.losses),
        norm=None if norm is None else abs(norm - expected) / expected,
        weights=max(float((one.tensors[name] - other.tensors[name]).abs().max()) for name in weights),
        is_exact=other.losses == one.losses
        and all(torch.equal(other.tensors[name], tensor) for name, tensor in one.tensors.items()),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Run]]:
    def group(name: str) -> tuple[int, int]:
        return CASES[name].processes, CASES[name].stages

    names = sorted(CASES, key=group)
    groups = [
        (processes, {name: CASES[name].overrides for name in members})
        for (processes, _), members in groupby(names, key=group)
    ]
    read = train_groups(tmp_path_factory.mktemp("layouts"), groups, STEPS, timeout=1200)
    yield read
    print(table({name: compare(read(CASES[name].reference), read(name)) for name in COMPARED}))


def table(differences: dict[str, Difference]) -> str:
    """Return what was measured, in markdown: a line for each layout."""
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    for name, difference in differences.items():
        layout, _, optimizer = name.rpartition(", ")
        rows[layout][optimizer] = "every bit" if difference.is_exact else f"{difference.losses:.1e}"
    lines = ["", f"| layout | {' | '.join(OPTIMIZERS)} |", "|---" * (1 + len(OPTIMIZERS)) + "|"]
    lines += [f"| {layout} | {' | '.join(row.get(name, '') for name in OPTIMIZERS)} |" for layout, row in rows.items()]
    near = [difference for name, difference in differences.items() if CASES[name].bound == ROUNDING]
    norm, weight = max(each.norm or 0 for each in near), max(each.weights for each in near)
    return "\n".join([*lines, "", f"fp32: first norms within {norm:.1e}, weights in the end within {weight:.1e}"])


@pytest.mark.parametrize("name", EXACT)
def test_stages_in_any_number_and_schedule_are_bit_equal_to_one_process(run: Callable[[str], Run], name: str) -> None:
    one, stages = run(CASES[name].reference), run(name)
    assert compare(one, stages).is_exact
    assert {fact["validation"] for fact in stages.facts} == {one.facts[0]["validation"]}


@pytest.mark.parametrize("name", NEAR)
def test_replicas_and_bf16_differ_from_one_process_by_rounding(run: Callable[[str], Run], name: str) -> None:
    case = CASES[name]
    difference = compare(run(case.reference), run(name))
    assert difference.losses < case.bound
    assert difference.norm is None if "ZeRO 0" in name else difference.norm < case.bound  # ZeRO 0 computes none
    if case.bound == ROUNDING:
        assert difference.weights < WEIGHT_ROUNDING


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stages_that_are_replicated_are_bit_equal_to_replicas(run: Callable[[str], Run], schedule: str) -> None:
    assert compare(run("2 replicas, ZeRO 1, SGD"), run(f"2 stages x 2 replicas, {schedule}, SGD")).is_exact
    assert run(f"4 stages x 2 replicas, {schedule}, SGD").losses == run("4 stages x 2 replicas, 1f1b, SGD").losses


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.processes > 1])
def test_every_rank_reports_the_same_losses(run: Callable[[str], Run], name: str) -> None:
    first, *others = run(name).facts
    assert all(fact["losses"] == first["losses"] for fact in others)
    assert len(first["losses"]) == STEPS

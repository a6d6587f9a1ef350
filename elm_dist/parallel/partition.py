"""Which layers each pipeline stage holds, by their cost or as the configuration says. Needs no torch."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from elm_dist.config import Config
from elm_dist.model.cost import layer_forward_flops, layer_parameters
from elm_dist.parallel.schedule import PartCost, ScheduleName, build_schedule, simulate

NOTICEABLE = 1.05  # a schedule other than 1F1B must save this much


def plan_stages(config: Config, stages: int) -> list[int]:
    """Return the boundaries of `stages` stages: the configuration's own, else the best by FLOPs and memory."""
    if config.parallel.stage_boundaries:
        return [0, *config.parallel.stage_boundaries, config.model.num_layers + 2]
    costs = layer_forward_flops(config.model, config.tokenizer.grid)
    return plan_partition(costs, stages, layer_parameters(config.model, config.tokenizer.grid))


def choose_schedule(config: Config, micro_batches: int) -> str:
    """Return the schedule of a pipeline that takes the least time, by the FLOPs of its parts; in doubt 1F1B."""
    parallel, stages = config.parallel, config.parallel.pipeline_stages
    candidates: list[ScheduleName] = ["1f1b"]
    if 2 * stages <= min(micro_batches, config.model.num_layers):
        candidates.append("dualpipev")
        is_plain = parallel.precision != "fp16" and not parallel.checkpoint_every_blocks
        if is_plain and not config.kernels.compile_blocks:
            candidates.append("zbv")
    seconds = {name: _makespan(config, name, micro_batches) for name in candidates}
    return min(candidates, key=lambda name: seconds[name] * (1 if name == "1f1b" else NOTICEABLE))


def _makespan(config: Config, name: ScheduleName, micro_batches: int) -> float:
    """Return how long a step of schedule `name` takes, in the time of so many FLOPs."""
    stages = config.parallel.pipeline_stages
    flops = layer_forward_flops(config.model, config.tokenizer.grid)
    boundaries = plan_stages(config, stages if name == "1f1b" else 2 * stages)
    work = [float(sum(flops[begin:end])) for begin, end in pairwise(boundaries)]
    costs = [PartCost(forward=each, input_gradient=each, weight_gradient=each) for each in work]
    return simulate(build_schedule(name, stages, micro_batches), costs).makespan


def plan_partition(costs: Sequence[float], stages: int, sizes: Sequence[float] | None = None) -> list[int]:
    """Return boundaries [0, ..., len(costs)]: stage s holds layers boundaries[s] to boundaries[s + 1] - 1.

    The most expensive stage is as cheap as can be; where several partitions are equal in that, the largest stage by
    `sizes` is as small as can be. No stage is empty (an empty one would hang ZeRO-1). The first layer, the embedding,
    costs next to nothing and shares a stage with the layer after it.
    """
    assert 1 <= stages < len(costs), "a stage would be empty"
    cost = [0, *accumulate(costs)]
    cheapest = _least_worst(costs, stages, lambda begin, end: end > 1)
    limit = max(cost[end] - cost[begin] for begin, end in pairwise(cheapest))
    return _least_worst(sizes or costs, stages, lambda begin, end: end > 1 and cost[end] - cost[begin] <= limit)


def _least_worst(weights: Sequence[float], stages: int, is_allowed: Callable[[int, int], bool]) -> list[int]:
    """Return the boundaries of the allowed stages (begin, end) whose heaviest is the lightest."""
    total = [0, *accumulate(weights)]
    # best[s][end]: the weight of the heaviest of s + 1 stages over the layers before `end`, and where the last begins.
    best = [{end: (float(total[end]), 0) for end in range(1, len(total)) if is_allowed(0, end)}]
    for _ in range(1, stages):
        row = {}
        for end in range(1, len(total)):
            begins = [begin for begin in best[-1] if begin < end and is_allowed(begin, end)]
            if begins:
                row[end] = min((max(best[-1][begin][0], total[end] - total[begin]), begin) for begin in begins)
        best.append(row)
    boundaries = [len(weights)]
    for row in reversed(best):
        boundaries.append(row[boundaries[-1]][1])
    return boundaries[::-1]


def partition_table(config: Config, boundaries: Sequence[int]) -> str:
    """Return what each stage holds and costs, as lines of text; operations are those of one image's forward pass."""
    names = ["embedding", *(f"block_{index}" for index in range(config.model.num_layers)), "head"]
    model, grid = config.model, config.tokenizer.grid
    flops, parameters = layer_forward_flops(model, grid), layer_parameters(model, grid)
    lines = [f"{'stage':<7}{'layers':<28}{'parameters':>14}{'GFLOPs':>12}{'share':>9}"]
    for stage, (begin, end) in enumerate(pairwise(boundaries)):
        held = names[begin] if end - begin == 1 else f"{names[begin]} to {names[end - 1]}"
        work = sum(flops[begin:end])
        lines.append(
            f"{stage:<7}{held:<28}{sum(parameters[begin:end]):>14,}{work / 1e9:>12,.3f}{work / sum(flops):>9.1%}"
        )
    return "\n".join(lines)

"""Which layers each pipeline stage holds, by their cost. Needs no torch."""

from collections.abc import Sequence
from itertools import accumulate


def plan_partition(costs: Sequence[float], stages: int) -> list[int]:
    """Return boundaries [0, ..., len(costs)]: stage s holds layers boundaries[s] to boundaries[s + 1] - 1.

    The most expensive stage is as cheap as can be, and no stage is empty (an empty one would hang ZeRO-1). The first
    layer, the embedding, costs next to nothing and shares a stage with the layer after it.
    """
    assert 1 <= stages < len(costs), "a stage would be empty"
    total = [0, *accumulate(costs)]
    # best[s][end]: the least cost of the worst of s stages over the layers before `end`, and where the last one begins.
    best = [{end: (float(total[end]), 0) for end in range(2, len(total))}]
    for done in range(1, stages):
        best.append(
            {
                end: min((max(best[-1][begin][0], total[end] - total[begin]), begin) for begin in range(done + 1, end))
                for end in range(done + 2, len(total))
            }
        )
    boundaries = [len(costs)]
    for row in reversed(best):
        boundaries.append(row[boundaries[-1]][1])
    return boundaries[::-1]

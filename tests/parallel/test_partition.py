from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from elm_dist.parallel.partition import plan_partition

costs_and_stages = st.lists(st.integers(0, 100), min_size=3, max_size=9).flatmap(
    lambda costs: st.tuples(st.just(costs), st.integers(1, len(costs) - 1))
)


@given(costs_and_stages)
def test_partition_is_the_best_of_all(case: tuple[list[int], int]) -> None:
    costs, stages = case
    boundaries = plan_partition(costs, stages)

    def worst(bounds: list[int]) -> int:
        return max(sum(costs[begin:end]) for begin, end in pairwise(bounds))

    every = [[0, *cut, len(costs)] for cut in combinations(range(2, len(costs)), stages - 1)]
    assert boundaries in every  # so no stage is empty, and the first holds more than the embedding
    assert worst(boundaries) == min(map(worst, every))


def test_an_expensive_head_gets_fewer_blocks_beside_it() -> None:
    # L 1-16: the head of 65,536 entries costs as much as five blocks.
    assert plan_partition([0, *[1] * 24, 5], 2) == [0, 15, 26]

from itertools import combinations, pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from elm_dist.config import ModelConfig
from elm_dist.config_file import load_config
from elm_dist.model.cost import layer_forward_flops, layer_parameters
from elm_dist.parallel.partition import partition_table, plan_partition, plan_stages

TINY = Path(__file__).parent.parent / "distributed" / "tiny.yaml"

weights = st.integers(0, 100)
cases = st.integers(3, 9).flatmap(
    lambda layers: st.tuples(
        st.lists(weights, min_size=layers, max_size=layers),
        st.integers(1, layers - 1),
        st.lists(weights, min_size=layers, max_size=layers),
    )
)


@given(cases)
def test_partition_is_the_best_of_all(case: tuple[list[int], int, list[int]]) -> None:
    costs, stages, sizes = case

    def worst(weights: list[int], bounds: list[int]) -> int:
        return max(sum(weights[begin:end]) for begin, end in pairwise(bounds))

    every = [[0, *cut, len(costs)] for cut in combinations(range(2, len(costs)), stages - 1)]
    cheapest = min(worst(costs, bounds) for bounds in every)
    boundaries = plan_partition(costs, stages, sizes)
    assert boundaries in every  # so no stage is empty, and the first holds more than the embedding
    assert worst(costs, boundaries) == cheapest
    assert worst(sizes, boundaries) == min(worst(sizes, b) for b in every if worst(costs, b) == cheapest)
    assert worst(costs, plan_partition(costs, stages)) == cheapest


def test_an_expensive_head_gets_fewer_blocks_beside_it() -> None:
    # L 1-16: the head of 65,536 entries costs as much as five blocks.
    assert plan_partition([0, *[1] * 24, 5], 2) == [0, 15, 26]


def test_memory_decides_between_partitions_that_are_equally_fast() -> None:
    # Six blocks in four stages, two at most in each: who holds fewer is all the same to the FLOPs.
    costs = [0, *[1] * 6, 0]
    assert plan_partition(costs, 4, [5, *[1] * 6, 0])[1] == 2  # one block beside a large embedding
    assert plan_partition(costs, 4, [0, *[1] * 6, 5])[-2] == 7  # a large head by itself


def test_a_model_is_divided_by_its_own_costs() -> None:
    config = load_config(TINY)
    costs = layer_forward_flops(config.model, config.tokenizer.grid)
    assert plan_stages(config, 3) == plan_partition(costs, 3, layer_parameters(config.model, config.tokenizer.grid))


def test_explicit_boundaries_are_obeyed() -> None:
    config = load_config(TINY, ["parallel.pipeline_stages=3", "parallel.stage_boundaries=[1, 5]"])
    assert plan_stages(config, 3) == [0, 1, 5, 6]


def test_the_table_shows_what_each_stage_holds_and_costs() -> None:
    config = load_config(TINY, ["parallel.pipeline_stages=3", "parallel.stage_boundaries=[3, 5]"])
    model: ModelConfig = config.model
    flops, parameters = (
        layer_forward_flops(model, config.tokenizer.grid),
        layer_parameters(model, config.tokenizer.grid),
    )
    heading, *rows = partition_table(config, plan_stages(config, 3)).splitlines()
    assert heading.split() == ["stage", "layers", "parameters", "GFLOPs", "share"]
    expected = [("0", "embedding to block_1", 0, 3), ("1", "block_2 to block_3", 3, 5), ("2", "head", 5, 6)]
    for row, (stage, layers, begin, end) in zip(rows, expected, strict=True):
        work = sum(flops[begin:end])
        count = f"{sum(parameters[begin:end]):,}"
        assert row.split() == [stage, *layers.split(), count, f"{work / 1e9:,.3f}", f"{work / sum(flops):.1%}"]

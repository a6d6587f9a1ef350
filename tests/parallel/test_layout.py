from pathlib import Path

import pytest

from elm_dist.config_file import load_config
from elm_dist.errors import LayoutError
from elm_dist.parallel.layout import plan_layout

TINY = Path(__file__).parent.parent / "distributed" / "tiny.yaml"


@pytest.mark.parametrize(("world_size", "stages"), [(1, 1), (2, 1), (2, 2), (8, 1), (8, 2), (8, 4)])
def test_every_micro_batch_has_one_replica_and_every_stage_one_rank(world_size: int, stages: int) -> None:
    config = load_config(TINY, [f"parallel.pipeline_stages={stages}"])
    layouts = [plan_layout(config, world_size, rank) for rank in range(world_size)]
    firsts = [layout for layout in layouts if layout.is_first_stage]
    assert sorted(index for layout in firsts for index in layout.micro_batches) == list(range(8))
    for layout in layouts:
        assert layout.rank_of_stage(layout.stage) == layout.rank
        assert layouts[layout.rank_of_stage(stages - 1)].is_last_stage
        assert layouts[layout.rank_of_stage(stages - 1)].micro_batches == layout.micro_batches


def test_processes_that_form_no_pipelines_are_refused() -> None:
    config = load_config(TINY, ["parallel.pipeline_stages=2"])
    with pytest.raises(
        LayoutError, match=r"3 processes cannot form pipelines of .*=2; start a multiple of 2 processes"
    ):
        plan_layout(config, 3)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"global_batch_size=16 does not divide over 3 replicas .* a multiple of 6"):
        plan_layout(load_config(TINY), 3)


def test_layout_says_itself_in_words() -> None:
    config = load_config(TINY, ["parallel.pipeline_stages=2"])
    words = "4 processes = 2 pipeline stages x 2 replicas, 4 micro-batches of 2 images each"
    assert str(plan_layout(config, 4)) == words

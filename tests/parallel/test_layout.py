from pathlib import Path

import pytest

from elm_dist.config_file import load_config
from elm_dist.errors import LayoutError
from elm_dist.parallel.layout import plan_layout

TINY = Path(__file__).parent.parent / "distributed" / "tiny.yaml"


@pytest.mark.parametrize("schedule", ["1f1b", "zbv"])
@pytest.mark.parametrize(("world_size", "stages"), [(1, 1), (2, 1), (2, 2), (8, 1), (8, 2), (8, 4)])
def test_every_micro_batch_has_one_replica_and_every_part_one_rank(world_size: int, stages: int, schedule: str) -> None:
    settings = [f"parallel.pipeline_stages={stages}", f"parallel.schedule={schedule}", "model.num_layers=8"]
    config = load_config(TINY, [*settings, "schedule.global_batch_size=64"])
    layouts = [plan_layout(config, world_size, rank) for rank in range(world_size)]
    firsts = [layout for layout in layouts if layout.has_first_part]
    assert sorted(index for layout in firsts for index in layout.micro_batches) == list(range(32))
    for layout in layouts:
        assert layout.parts == stages * (2 if schedule == "zbv" and stages > 1 else 1)
        assert all(layout.rank_of_part(part) == layout.rank for part in layout.my_parts)
        assert layouts[layout.rank_of_part(layout.parts - 1)].has_last_part
        ranks = [layout.rank_of_part(part) for part in range(layout.parts)]
        assert {layouts[rank].micro_batches for rank in ranks} == {layout.micro_batches}
        assert sorted(part for rank in set(ranks) for part in layouts[rank].my_parts) == list(range(layout.parts))


def test_a_folded_schedule_needs_micro_batches_for_all_parts() -> None:
    config = load_config(TINY, ["parallel.pipeline_stages=2", "parallel.schedule=dualpipev"])
    assert plan_layout(config, 4).accumulation == 4
    with pytest.raises(LayoutError, match=r"dualpipev needs 4 micro-batches or more for 2 pipeline stages, and each"):
        plan_layout(config, 8)


@pytest.mark.parametrize(
    ("stages", "batch", "more", "expected"),
    [
        (4, 64, [], "zbv"),
        (4, 24, ["parallel.checkpoint_every_blocks=1"], "dualpipev"),  # which splits no backward pass
        (4, 8, [], "1f1b"),  # too few micro-batches for two parts a stage
        (2, 1024, [], "1f1b"),  # hardly a bubble to fill
    ],
)
def test_auto_takes_the_schedule_that_idles_least(stages: int, batch: int, more: list[str], expected: str) -> None:
    settings = [f"parallel.pipeline_stages={stages}", f"schedule.global_batch_size={batch}", "model.num_layers=14"]
    config = load_config(TINY, [*settings, *more, "parallel.schedule=auto"])
    assert plan_layout(config, stages).schedule == expected


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
    words = "4 processes = 2 pipeline stages (1f1b) x 2 replicas, 4 micro-batches of 2 images each"
    assert str(plan_layout(config, 4)) == words

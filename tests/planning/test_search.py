"""The search and the advice give plans that the rules allow, that fit, and that are what they say."""

from dataclasses import replace

import pytest
from planned import cluster, size

from elm_dist.config_file import SECTIONS
from elm_dist.config_rules.every_rule import broken_rules
from elm_dist.errors import LayoutError
from elm_dist.planning.plan import plan_run
from elm_dist.planning.search import advise, choice_of, search_layouts


def test_the_search_ranks_what_fits_and_is_allowed() -> None:
    config, machines = size("l"), cluster(nodes=2, gpus_per_node=4)
    plans = search_layouts(config, machines)
    times = [plan.step.total for plan in plans]
    assert times == sorted(times)
    assert all(plan.fits for plan in plans)
    assert len({choice_of(plan) for plan in plans}) == len(plans) > 40
    for plan in plans:
        assert broken_rules({name: getattr(plan.config, name) for name in SECTIONS}) == []
        assert plan.config.schedule.global_batch_size == config.schedule.global_batch_size
        assert plan.config.model == config.model
    choices = [choice_of(plan) for plan in plans]
    assert {choice.stages for choice in choices} >= {1, 2, 4, 8}
    assert {choice.zero for choice in choices if choice.stages == 1} == {1, 2, 3}
    assert {choice.zero for choice in choices if choice.stages > 1} == {1}
    assert not [choice for choice in choices if choice.schedule == "zbv" and choice.recompute]
    assert plan_run(config, machines).step.total >= times[0]


def test_where_nothing_fits_it_says_so() -> None:
    machines = cluster(gpu="rtx4090")
    tight = replace(machines, gpu=replace(machines.gpu, memory=3e9))
    with pytest.raises(LayoutError, match=r"none of the layouts .* fits on 8 of these GPUs; take more of them or"):
        search_layouts(size("7b"), tight)


def test_advice_is_one_setting_and_faster() -> None:
    plan = plan_run(size("xxl"), cluster(nodes=2))
    changes = advise(plan)
    assert changes
    for settings, other in changes:
        assert plan_run(size("xxl", *settings), plan.cluster).step.total == other.step.total
        assert other.fits
        assert other.step.total < plan.step.total
        assert len(settings) == 1


def test_advice_for_what_does_not_fit_makes_it_fit() -> None:
    plan = plan_run(size("7b", "parallel.pipeline_stages=1"), cluster(nodes=4, gpu="a100-40gb"))
    assert not plan.fits
    changes = advise(plan)
    assert all(other.fits for _, other in changes)
    assert ("parallel.zero_stage=3",) in [settings for settings, _ in changes]


def test_more_stages_bring_the_zero_that_they_need() -> None:
    plan = plan_run(size("2b", "parallel.zero_stage=3"), cluster(nodes=4, fabric="eth-10g"))
    best = advise(plan)[0].settings
    assert len(best) == 2
    assert best[0].startswith("parallel.pipeline_stages=")
    assert best[1] == "parallel.zero_stage=1"


def test_boundaries_by_hand_stay_with_their_stages() -> None:
    settings = ("parallel.pipeline_stages=2", "parallel.stage_boundaries=[20]", "schedule.micro_batch_size=4")
    plans = search_layouts(size("xl", *settings), cluster(gpus_per_node=4))
    two = [plan for plan in plans if choice_of(plan).stages == 2]
    assert two
    assert all(plan.config.parallel.stage_boundaries == (20,) for plan in two)
    assert any(choice_of(plan).stages == 4 for plan in plans)

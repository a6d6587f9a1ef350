"""Real processes over gloo, on random codes with every dropout on: any layout trains the same curve.

The whole matrix is in `test_every_layout.py`.
"""

from collections.abc import Callable

import pytest
import torch
from curves import Group, Run, largest_relative_difference, train_groups

STEPS = 20
SGD = ["optimizer.name=sgd", "optimizer.learning_rate=0.5"]
PIPELINE = ["parallel.pipeline_stages=2"]
DUALPIPEV = [*PIPELINE, "parallel.schedule=dualpipev"]
ZBV = [*PIPELINE, "parallel.schedule=zbv"]
RECOMPUTE = ["parallel.checkpoint_every_blocks=2"]
BF16 = ["parallel.precision=bf16"]
MASKED = [*SGD, "model.modelling=masked", "model.conditioning=adaln", "loss.z_loss=1e-3"]
# Whatever an autoregressive model can vary at once.
VARIED = [
    *(
        *SGD,
        "optimizer.learning_rate=0.1",
        "model.conditioning=adaln",
        "model.attention=cosine",
        "model.key_value_heads=1",
        "model.drop_path=0.2",
    ),
    *("model.position_encoding=learned", "model.scan=diagonal_zigzag", "loss.hamming_distance=1"),
]
SEQUENTIAL = [*SGD, "model.subtoken_prediction=sequential"]
OFFLOAD = ["parallel.zero_stage=3", "parallel.offload=[optimizer, parameters]"]

GROUPS: list[Group] = [
    (
        1,
        {
            "one_sgd": SGD,
            "one_adamw": [],
            "one_clipped": [*SGD, "optimizer.gradient_clipping=0.1"],
            "one_zero0": ["parallel.zero_stage=0"],
            "one_zero2": ["parallel.zero_stage=2"],
            "one_zero3": ["parallel.zero_stage=3"],
            "one_offloaded": OFFLOAD,
            "one_recomputed": RECOMPUTE,
            "one_bf16": BF16,
            "one_masked": MASKED,
            "one_varied": VARIED,
            "one_sequential": SEQUENTIAL,
            "one_sequential-bf16": SEQUENTIAL + BF16,
        },
    ),
    (
        2,
        {
            "stages_sgd": PIPELINE + SGD,
            "stages_adamw": PIPELINE,
            "stages_clipped": [*PIPELINE, *SGD, "optimizer.gradient_clipping=0.1"],
            "stages_recomputed": PIPELINE + RECOMPUTE,
            "stages_bf16": PIPELINE + BF16,
            "stages_shuffled": PIPELINE,
            "dualpipev_sgd": DUALPIPEV + SGD,
            "dualpipev_recomputed": DUALPIPEV + RECOMPUTE,
            "zbv_sgd": ZBV + SGD,
            "zbv_adamw": ZBV,
            "zbv_bf16": ZBV + BF16,
        },
    ),
    (
        2,
        {
            "stages_masked": PIPELINE + MASKED,
            "stages_varied": PIPELINE + VARIED,
            "stages_sequential": PIPELINE + SEQUENTIAL,
            "stages_sequential-bf16": PIPELINE + SEQUENTIAL + BF16,
            "zbv_masked": ZBV + MASKED,
            "zbv_varied": ZBV + VARIED,
            "zbv_sequential": ZBV + SEQUENTIAL,
        },
    ),
    (
        2,
        {
            "replicas_zero1_sgd": SGD,
            "replicas_zero1_adamw": [],
            "replicas_zero0_sgd": [*SGD, "parallel.zero_stage=0"],
            "replicas_zero2_sgd": [*SGD, "parallel.zero_stage=2"],
            "replicas_zero3_sgd": [*SGD, "parallel.zero_stage=3"],
            "replicas_zero3_adamw": ["parallel.zero_stage=3"],
            "replicas_offloaded": OFFLOAD,
            "replicas_zero1_masked": MASKED,
            "replicas_zero3_masked": [*MASKED, "parallel.zero_stage=3"],
            "replicas_zero3_varied": [*VARIED, "parallel.zero_stage=3"],
            "replicas_zero3_sequential": [*SEQUENTIAL, "parallel.zero_stage=3"],
        },
    ),
    (4, {"four_stages_sgd": [*SGD, "parallel.pipeline_stages=4"]}),
    (4, {"stages_and_replicas_sgd": PIPELINE + SGD, "zbv_and_replicas_sgd": ZBV + SGD}),
]

FOLDED_GROUPS: list[Group] = [
    (
        2,
        {
            "dualpipev_masked": DUALPIPEV + MASKED,
            "dualpipev_varied": DUALPIPEV + VARIED,
            "dualpipev_sequential": DUALPIPEV + SEQUENTIAL,
        },
    )
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    return train_groups(tmp_path_factory.mktemp("layouts"), GROUPS, STEPS)


@pytest.mark.parametrize(
    "case",
    [
        *("stages_sgd", "stages_adamw", "stages_recomputed", "stages_bf16", "four_stages_sgd"),
        *("dualpipev_sgd", "dualpipev_recomputed", "zbv_sgd", "zbv_adamw", "zbv_bf16"),
        *("stages_masked", "zbv_masked", "stages_varied", "zbv_varied"),
        *("stages_sequential", "stages_sequential-bf16", "zbv_sequential"),
    ],
)
def test_stages_in_any_schedule_are_bit_equal_to_one_process(run: Callable[[str], Run], case: str) -> None:
    stages = run(case)
    assert_bit_equal(run(f"one_{case.split('_')[-1]}"), stages)
    drawn = stages.facts[0]["drawn"]
    assert drawn["1"] == drawn["4"] or "bf16" in case  # there a product of another length may draw another code


@pytest.mark.slow
def test_variants_in_dualpipev_are_bit_equal_to_one_process(
    run: Callable[[str], Run], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folded = train_groups(tmp_path_factory.mktemp("folded"), FOLDED_GROUPS, STEPS)
    for _, cases in FOLDED_GROUPS:
        for case in cases:
            assert_bit_equal(run(f"one_{case.split('_')[-1]}"), folded(case))


def assert_bit_equal(one: Run, stages: Run) -> None:
    assert stages.losses == one.losses
    assert {fact["validation"] for fact in stages.facts} == {one.facts[0]["validation"]}
    assert all(fact["decoded"] == one.facts[0]["decoded"] for fact in stages.facts)
    drawn = one.facts[0]["drawn"]
    assert all(fact["drawn"] == drawn for fact in stages.facts)
    assert stages.tensors.keys() == one.tensors.keys()
    unequal = [name for name, tensor in one.tensors.items() if not torch.equal(stages.tensors[name], tensor)]
    assert not unequal


def test_a_last_stage_that_reads_other_batches_is_caught_at_the_first_step(run: Callable[[str], Run]) -> None:
    for fact in run("stages_shuffled").facts:
        assert fact["step"] == 0
        assert fact["error"].startswith("the first and the last pipeline stage read different batches; see that data.")


@pytest.mark.parametrize("case", ["stages_sgd", "dualpipev_sgd", "zbv_sgd", "stages_and_replicas_sgd"])
def test_a_pipeline_reports_its_bubble_and_the_memory_of_each_stage(run: Callable[[str], Run], case: str) -> None:
    facts = run(case).facts
    assert all(0 < bubble < 1 for bubble in facts[0]["bubbles"])
    assert len(facts[0]["memory"]) == 2
    assert all(1e8 < memory < 1e10 for memory in facts[0]["memory"])
    assert all(fact["memory"] == facts[0]["memory"] for fact in facts)
    assert run("one_sgd").facts[0]["bubbles"] == [None] * STEPS


def test_pipeline_stages_clip_by_the_norm_of_the_whole_model(run: Callable[[str], Run]) -> None:
    one, stages = run("one_clipped"), run("stages_clipped")
    assert max(one.facts[0]["norms"]) > 0.1  # so clipping does something
    assert stages.facts[0]["norms"] == pytest.approx(one.facts[0]["norms"], rel=1e-6)
    assert largest_relative_difference(one.losses, stages.losses) < 1e-6


@pytest.mark.parametrize(
    "case",
    [
        *("replicas_zero0_sgd", "replicas_zero1_sgd", "replicas_zero2_sgd", "replicas_zero3_sgd"),
        *("stages_and_replicas_sgd", "zbv_and_replicas_sgd"),
        *("replicas_zero1_masked", "replicas_zero3_masked", "replicas_zero3_varied", "replicas_zero3_sequential"),
    ],
)
def test_replicas_are_within_1e_6_of_one_process(run: Callable[[str], Run], case: str) -> None:
    one, replicas = run(f"one_{case.split('_')[-1]}"), run(case)
    assert largest_relative_difference(one.losses, replicas.losses) < 1e-6
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(replicas.tensors[name], tensor, rtol=1e-6, atol=1e-6)
    if "zero0" not in case:  # where DeepSpeed computes no norm
        # At the first step the weights are still the same; later norms carry what rounding did to the weights.
        assert replicas.facts[0]["norms"][0] == pytest.approx(one.facts[0]["norms"][0], rel=1e-6)
        assert replicas.facts[0]["norms"] == pytest.approx(one.facts[0]["norms"], rel=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        *("one_zero3", "one_offloaded"),  # which lay the weights out otherwise: Adam's vector code rounds otherwise
        *("replicas_zero1_adamw", "replicas_zero3_adamw", "replicas_offloaded"),
    ],
)
def test_adamw_on_other_partitions_keeps_the_curve(run: Callable[[str], Run], case: str) -> None:
    assert largest_relative_difference(run("one_adamw").losses, run(case).losses) < 1e-6


@pytest.mark.parametrize("case", ["one_zero0", "one_zero2", "one_recomputed"])
def test_one_process_is_the_same_with_any_zero_and_recomputation(run: Callable[[str], Run], case: str) -> None:
    expected, found = run("one_adamw"), run(case)
    assert found.losses == expected.losses
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())


def test_bf16_stays_near_fp32(run: Callable[[str], Run]) -> None:
    assert largest_relative_difference(run("one_adamw").losses, run("one_bf16").losses) < 1e-3


@pytest.mark.parametrize("case", ["stages_adamw", "replicas_zero1_adamw", "replicas_zero3_adamw"])
def test_all_ranks_report_the_same(run: Callable[[str], Run], case: str) -> None:
    first, second = run(case).facts
    assert first == second


def test_the_average_follows_the_weights(run: Callable[[str], Run]) -> None:
    """With decay 0.9 and 20 steps the average is near the weights, and not the same."""
    tensors = run("replicas_zero1_sgd").tensors
    distances = {
        name: (tensors[f"ema/{name.removeprefix('weights/')}"] - weight).norm()
        for name, weight in tensors.items()
        if name.startswith("weights/")
    }
    assert all(0 < distance < 2 for distance in distances.values())

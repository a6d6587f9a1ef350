import math

import pytest

from elm_dist.config import HealthConfig
from elm_dist.errors import TrainingError
from elm_dist.parallel.engine import StepResult
from elm_dist.training.recovery import Recovery

HEALTH = HealthConfig(skips_before_rollback=3, rollbacks=2)


def result(loss: float = 5.0, is_skipped: bool = False) -> StepResult:
    return StepResult(
        head_losses=(loss,),
        head_accuracies=(0.0,),
        grad_norm=None,
        is_skipped=is_skipped,
        stop_requested=False,
        save_requested=False,
        bubble=None,
        data_seconds=0.0,
        forward_seconds=0.0,
    )


ILL = result(math.nan, is_skipped=True)


def test_so_many_ill_steps_in_a_row_and_no_fewer_make_a_run_go_back() -> None:
    recovery = Recovery(HEALTH, scales_loss=False)
    steps = [ILL, ILL, result(), ILL, ILL, ILL]
    assert [recovery.must_go_back(step) for step in steps] == [False] * 5 + [True]
    assert recovery.skipped_steps == 5


def test_a_run_that_looks_for_its_loss_scale_is_not_ill() -> None:
    skipped = result(5.0, is_skipped=True)
    assert Recovery(HEALTH, scales_loss=False).is_ill(skipped)
    assert not Recovery(HEALTH, scales_loss=True).is_ill(skipped)
    assert Recovery(HEALTH, scales_loss=True).is_ill(ILL)


def test_going_back_leaves_the_data_in_between_out_and_forgets_its_skips() -> None:
    recovery = Recovery(HEALTH, scales_loss=False)
    for _ in range(3):
        recovery.must_go_back(ILL)
    recovery.go_back(57, 40, {"skipped_steps": 1, "jumped_batches": 0})
    assert recovery.facts == {"skipped_steps": 1, "jumped_batches": 17}
    assert not recovery.must_go_back(ILL)


def test_going_back_again_jumps_over_both_windows() -> None:
    recovery = Recovery(HEALTH, scales_loss=False)
    recovery.go_back(50, 40, {})
    recovery.go_back(53, 40, {})
    assert recovery.jumped_batches == 10 + 13  # step 40 now reads batch 63, the first after those seen so far


def test_a_run_without_a_checkpoint_cannot_go_back() -> None:
    with pytest.raises(TrainingError, match="and there is no checkpoint to go back to; start again with a lower"):
        Recovery(HEALTH, scales_loss=False).go_back(3, None, {})


def test_a_run_gives_up_when_going_back_does_not_help() -> None:
    recovery = Recovery(HEALTH, scales_loss=False)
    for _ in range(2):
        recovery.go_back(50, 40, {})
    recovery.saved()
    for _ in range(2):
        recovery.go_back(60, 50, {})
    with pytest.raises(
        TrainingError, match=r"going back 2 times to the checkpoint of step 50 did not help; delete it .* with a lower"
    ):
        recovery.go_back(60, 50, {})

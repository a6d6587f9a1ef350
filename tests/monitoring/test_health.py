import math

import pytest

from elm_dist.errors import TrainingError
from elm_dist.monitoring.health import check_finite


def test_finite_numbers_pass() -> None:
    check_finite(1, 8.3, 0.5)
    check_finite(1, 8.3, None)


@pytest.mark.parametrize(
    ("loss", "norm", "message"),
    [(math.nan, 1.0, "the loss of step 1,234 is nan"), (1.0, math.inf, "the gradient norm of step 1,234 is inf")],
)
def test_a_broken_step_is_named_with_the_remedy(loss: float, norm: float, message: str) -> None:
    with pytest.raises(TrainingError, match=f"{message}; .*lower optimizer.learning_rate"):
        check_finite(1234, loss, norm)

import math

import pytest

from elm_dist.monitoring.metrics import bits_per_code_bit, loss_metrics


def test_a_model_that_knows_nothing_needs_one_bit_per_code_bit() -> None:
    for bits in (5, 8, 16):
        assert bits_per_code_bit(bits * math.log(2), bits) == pytest.approx(1)


def test_loss_is_the_mean_of_the_heads() -> None:
    values = loss_metrics("validation", [1.0, 3.0], [0.5, 0.25], subtoken_bits=4)
    assert values == {
        "validation/loss": 2.0,
        "validation/bits_per_code_bit": pytest.approx(2 / (4 * math.log(2))),
        "validation/loss_head_0": 1.0,
        "validation/accuracy_head_0": 0.5,
        "validation/loss_head_1": 3.0,
        "validation/accuracy_head_1": 0.25,
    }

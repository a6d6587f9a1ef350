"""Bytes of a parameter by stage of ZeRO; tests/distributed/test_state_bytes.py counts them in real engines."""

import pytest
from planned import cluster, size

from elm_dist.planning.memory import state_bytes


def test_zero_divides_among_replicas() -> None:
    for zero, whole in ((1, 8.0), (2, 2.0), (3, 0.0)):
        state = state_bytes(size("l", f"parallel.zero_stage={zero}"), 1_000_000)
        assert state.weights + state.gradients + state.optimizer + state.ema == pytest.approx(whole, abs=1e-4)


def test_sgd_has_no_moments() -> None:
    assert state_bytes(size("l", "optimizer.name=sgd"), 4).optimizer == 1.0


def test_all_offloaded_leaves_gradients() -> None:
    everything = size("l", "parallel.zero_stage=3", "parallel.offload=[optimizer, parameters]")
    state = state_bytes(everything, cluster().gpus)
    assert (state.weights, state.optimizer, state.ema) == (0.0, 0.0, 0.0)
    assert state.host == (12 + 4 + 4 + 2 + 2) / 8

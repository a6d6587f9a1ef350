"""Bytes of a parameter by stage of ZeRO; tests/distributed/test_state_bytes.py counts them in real engines."""

import pytest
from planned import cluster, size

from elm_dist.planning.memory import BUCKET, PREFETCH, Buffers, state_bytes, zero_buffers


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


def test_a_reduction_copies_what_is_in_the_bucket() -> None:
    config, few, many = size("l", "parallel.zero_stage=2"), BUCKET // 10, 2 * BUCKET
    assert zero_buffers(config, few, 1) == Buffers(2 * BUCKET, update=4 * few)
    assert zero_buffers(config, few, 4) == Buffers(2 * BUCKET, update=2 * few)  # once, when the activations are gone
    assert zero_buffers(config, many, 4) == Buffers(2 * BUCKET + 2 * BUCKET, update=2 * BUCKET)  # and beside them


def test_weights_gathered_together_are_there_twice_until_the_last_is_used() -> None:
    config, few = size("l", "parallel.zero_stage=3"), PREFETCH // 10
    assert zero_buffers(config, few, 4) == Buffers(2 * BUCKET + 2 * few, passes=2 * few, update=2 * few)
    assert zero_buffers(config, 3 * PREFETCH, 4).passes == 2 * PREFETCH


def test_plain_replicas_give_their_bucket_back_before_the_update() -> None:
    plain = size("l", "parallel.precision=fp32", "parallel.zero_stage=0")
    assert zero_buffers(plain, 1000, 4) == Buffers(update=4000)
    assert zero_buffers(size("l"), 1000, 4) == Buffers(update=4000)  # and so does bf16 with ZeRO 1

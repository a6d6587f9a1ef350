import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.codes.packing import unpack_bits
from elm_dist.codes.scan import scan_order
from elm_dist.codes.subtokens import CodeShape
from elm_dist.data.loader import BLOCK, GROUP, MicroBatch, TokenLoader, stored_indices
from elm_dist.errors import ShardError
from elm_dist.model.masking import hidden_cells, split_mask

WriteShards = Callable[..., Path]

SEEDS = st.integers(0, 2**32 - 1)
SAMPLES = st.one_of(st.integers(1, 3 * BLOCK), st.integers(BLOCK * GROUP - 2, 2 * BLOCK * GROUP + BLOCK + 2))
NULL_CLASS = 3


def build_loader(
    directory: Path, micro_batch_size: int = 4, global_batch_size: int = 24, **changes: float
) -> TokenLoader:
    options = {"seed": 0, "class_dropout": 0.1, **changes}
    return TokenLoader(
        directory,
        global_batch_size=global_batch_size,
        micro_batch_size=micro_batch_size,
        null_class=NULL_CLASS,
        **options,
    )


def stored_index(codes: Tensor) -> NDArray[np.int64]:
    return codes.numpy().view(">u8")[:, 0].astype(np.int64)


def assert_same(first: MicroBatch, second: MicroBatch) -> None:
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.positions, second.positions)


# --- The order -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, samples=SAMPLES, epoch=st.integers(0, 10_000))
def test_each_epoch_is_a_permutation(seed: int, samples: int, epoch: int) -> None:
    order = stored_indices(seed, samples, epoch * samples, samples)
    assert np.array_equal(np.sort(order), np.arange(samples))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, samples=SAMPLES, start=st.integers(0, 10**9), sizes=st.lists(st.integers(1, 3000), max_size=12))
def test_the_order_does_not_depend_on_how_it_is_cut(seed: int, samples: int, start: int, sizes: list[int]) -> None:
    ends = start + np.cumsum([*sizes, 1])
    parts = [
        stored_indices(seed, samples, end - size, size) for end, size in zip(ends.tolist(), [*sizes, 1], strict=True)
    ]
    assert np.array_equal(np.concatenate(parts), stored_indices(seed, samples, start, sum(sizes) + 1))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [stored_indices(seed, 5000, epoch * 5000, 5000) for seed in (0, 1) for epoch in (0, 1)]
    for i, order in enumerate(orders):
        assert all((order == other).mean() < 0.01 for other in orders[:i])


def test_samples_close_in_time_lie_in_few_blocks_but_far_apart_there() -> None:
    samples = 5 * BLOCK * GROUP
    order = stored_indices(0, samples, 0, BLOCK * GROUP)
    assert len(np.unique(order // BLOCK)) == GROUP
    assert np.abs(np.diff(order)).mean() > samples / 10  # a third of the range, were the order without any structure


def test_the_order_is_the_one_that_earlier_runs_were_saved_in() -> None:
    order = stored_indices(0, 100_000, 0, 200_000)
    digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
    assert digest == "3346bfa905df9794f6dd43b18a626fff0d4f8e3521337b6710b188171b25820f", (
        "a run saved before this change would go on with other samples"
    )


# --- Micro-batches ---------------------------------------------------------------------------------------------------


def test_what_a_micro_batch_is_made_of(write_shards: WriteShards) -> None:
    batch = build_loader(write_shards(train=50), class_dropout=0).micro_batch(48)
    assert batch.codes.dtype == torch.uint8
    assert batch.codes.shape == (4, 8)
    assert batch.labels.dtype == torch.int64
    assert batch.positions.tolist() == [48, 49, 50, 51]  # it goes on in the second epoch
    expected = stored_indices(0, 50, 48, 4)
    assert stored_index(batch.codes).tolist() == expected.tolist()
    assert batch.labels.tolist() == (expected % 3).tolist()


@pytest.mark.parametrize("step", [0, 1, 2, 1000])
@pytest.mark.parametrize(("replicas", "micro_batch_size"), [(1, 1), (1, 24), (2, 3), (3, 4), (6, 2)])
def test_replicas_share_out_a_global_batch(
    write_shards: WriteShards, step: int, replicas: int, micro_batch_size: int
) -> None:
    directory = write_shards(train=50)
    accumulation = 24 // replicas // micro_batch_size
    parts = []
    for replica in range(replicas):
        loader = build_loader(directory, micro_batch_size)
        indices = range(replica * accumulation, (replica + 1) * accumulation)
        parts += [loader.train_micro_batch(step, index) for index in indices]
    whole = build_loader(directory, micro_batch_size=24).train_micro_batch(step, 0)
    assert whole.positions.tolist() == list(range(24 * step, 24 * step + 24))
    assert_same(
        MicroBatch(
            torch.cat([part.codes for part in parts]),
            torch.cat([part.labels for part in parts]),
            np.concatenate([part.positions for part in parts]),
        ),
        whole,
    )


def test_a_fresh_loader_goes_on_where_another_stopped(write_shards: WriteShards) -> None:
    directory = write_shards(train=50)
    steady = build_loader(directory)
    for position in range(0, 200, 4):
        batch = steady.micro_batch(position)
        assert_same(build_loader(directory).micro_batch(position), batch)
    assert_same(steady.micro_batch(0), build_loader(directory).micro_batch(0))


def test_class_dropout_takes_its_share_and_no_more(write_shards: WriteShards) -> None:
    directory = write_shards(train=50)
    dropped = build_loader(directory, 20_000, class_dropout=0.1).micro_batch(0)
    kept = build_loader(directory, 20_000, class_dropout=0.0).micro_batch(0)
    is_null = dropped.labels == NULL_CLASS
    assert is_null.float().mean().item() == pytest.approx(0.1, abs=0.008)  # four standard deviations
    assert not (kept.labels == NULL_CLASS).any()
    assert torch.equal(dropped.labels[~is_null], kept.labels[~is_null])
    assert torch.equal(dropped.codes, kept.codes)


def test_class_dropout_is_drawn_anew_each_epoch(write_shards: WriteShards) -> None:
    batch = build_loader(write_shards(train=50), 100 * 50).micro_batch(0)
    is_null = (batch.labels == NULL_CLASS).numpy()
    times = np.bincount(stored_index(batch.codes)[is_null], minlength=50)  # of 100 epochs, how often each sample's
    assert times.min() > 0
    assert times.max() < 30


def test_class_dropout_follows_the_seed(write_shards: WriteShards) -> None:
    directory = write_shards(train=50)
    first, again, other = (build_loader(directory, 1000, seed=seed).micro_batch(7) for seed in (0, 0, 1))
    assert_same(first, again)
    assert not torch.equal(first.labels == NULL_CLASS, other.labels == NULL_CLASS)


def test_validation_is_in_stored_order_and_keeps_its_classes(write_shards: WriteShards) -> None:
    loader = build_loader(write_shards(validation=10), class_dropout=0.9)
    batches = [loader.validation_micro_batch(0, index) for index in range(3)]
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    indices = np.concatenate([batch.positions for batch in batches])
    assert indices.tolist() == list(range(10))
    assert np.concatenate([stored_index(batch.codes) for batch in batches]).tolist() == list(range(10))
    assert torch.cat([batch.labels for batch in batches]).tolist() == (indices % 3).tolist()


def test_a_damaged_shard_is_reported_when_it_is_reached(write_shards: WriteShards) -> None:
    directory = write_shards(train=50, shard_samples=20)
    (directory / "train-000001.tar").unlink()
    loader = build_loader(directory, 50)
    assert len(loader.validation_micro_batch(0, 0).labels) == 10
    with pytest.raises(ShardError, match=r"train-000001\.tar: the file is missing"):
        loader.micro_batch(0)


def test_missing_shards(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="there are no token shards here"):
        build_loader(tmp_path)


# --- What the model reads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scan", ["column_raster", "row_zigzag", "diagonal_zigzag"])
def test_a_scan_permutes_the_codes_of_each_image_and_nothing_else(write_shards: WriteShards, scan: str) -> None:
    directory = write_shards()
    raster, scanned = build_loader(directory), build_loader(directory, scan=scan)
    order = scan_order(scan, raster.manifest.grid)
    shape = CodeShape(raster.manifest.grid.cells, 1, raster.manifest.code_bits)
    for one, other in (
        (raster.train_micro_batch(2, 1), scanned.train_micro_batch(2, 1)),
        (raster.validation_micro_batch(0, 0), scanned.validation_micro_batch(0, 0)),
    ):
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(unpack_bits(one.codes, shape)[:, order.copy()], unpack_bits(other.codes, shape))


def test_a_masked_batch_is_the_same_with_a_mask_behind_it(write_shards: WriteShards) -> None:
    directory = write_shards()
    plain, masked = build_loader(directory), build_loader(directory, masking="per_sample")
    cells = plain.manifest.grid.cells
    shape = CodeShape(cells, 1, plain.manifest.code_bits)
    for step in range(3):
        one, other = plain.train_micro_batch(step, 1), masked.train_micro_batch(step, 1)
        packed, is_hidden = split_mask(other.codes, shape)
        assert torch.equal(packed, one.codes)
        assert torch.equal(is_hidden, hidden_cells(0, cells, one.positions, None))
    assert is_hidden.any(dim=1).all()


def test_validation_is_measured_by_the_same_masks_whatever_the_seed(write_shards: WriteShards) -> None:
    directory = write_shards()
    one, other = (build_loader(directory, seed=seed, masking="per_sample") for seed in (0, 1))
    assert_same(one.validation_micro_batch(0, 0), other.validation_micro_batch(0, 0))
    assert not torch.equal(one.train_micro_batch(0, 0).codes, other.train_micro_batch(0, 0).codes)


def test_a_global_batch_can_share_its_ratio(write_shards: WriteShards) -> None:
    loader = build_loader(write_shards(), masking="per_batch")
    cells = loader.manifest.grid.cells
    shape = CodeShape(cells, 1, loader.manifest.code_bits)
    for step in range(4):
        batches = [loader.train_micro_batch(step, index).codes for index in range(6)]
        counts = split_mask(torch.cat(batches), shape)[1].sum(dim=1)
        assert len(counts.unique()) == 1

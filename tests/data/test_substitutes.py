"""Training goes on where shards are bad: other samples, but the same for whoever asks, and as many as ever."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from elm_dist.data import shards
from elm_dist.data.loader import BLOCK, MicroBatch, TokenLoader, stored_indices
from elm_dist.data.shards import ShardReader, load_manifest
from elm_dist.data.substitutes import SubstitutingReader
from elm_dist.errors import ShardError

WriteShards = Callable[..., Path]

SAMPLES, SHARD_SAMPLES = 100, 10  # so ten shards; sample i lies in shard i // 10


def build_loader(directory: Path, micro_batch_size: int = 25, **changes: float) -> TokenLoader:
    options = {"seed": 0, "class_dropout": 0.1, "null_class": 3, "max_bad_shards": 0.3, **changes}
    return TokenLoader(directory, global_batch_size=100, micro_batch_size=micro_batch_size, **options)


def stored_index(batch: MicroBatch) -> NDArray[np.int64]:
    return batch.codes.numpy().view(">u8")[:, 0].astype(np.int64)


def expected_index(position: int, bad: set[int]) -> int:
    """Return the sample of a position by the words of the documentation, one after the other."""
    while (index := int(stored_indices(0, SAMPLES, position, 1)[0])) // SHARD_SAMPLES in bad:
        position += BLOCK
    return index


@pytest.fixture
def whole(write_shards: WriteShards) -> Path:
    return write_shards(train=SAMPLES, shard_samples=SHARD_SAMPLES)


def shard(directory: Path, number: int) -> Path:
    return directory / f"train-{number:06d}.tar"


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


DAMAGE = {
    "missing": (lambda path: path.unlink(), "the file is missing"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-700]), "the file is damaged"),
    "a flipped byte in a header": (lambda path: flip(path, 20), r"the file is damaged \(bad checksum\)"),
    "a flipped byte in a label": (
        lambda path: flip(path, 512 + 128),
        r"the file is damaged \(it has the label \d+, but there",
    ),
}


# --- What is read instead --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_shard_is_logged_once_and_costs_no_sample(
    whole: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = build_loader(whole, 1000).micro_batch(0)
    spoil, message = DAMAGE[damage]
    spoil(shard(whole, 4))
    loader = build_loader(whole, 1000)
    after = loader.micro_batch(0)
    loader.micro_batch(1000)

    assert stored_index(after).tolist() == [expected_index(position, {4}) for position in range(1000)]
    was_bad = stored_index(before) // SHARD_SAMPLES == 4
    assert was_bad.sum() == 100  # a tenth of ten epochs
    assert torch.equal(after.codes[~was_bad], before.codes[~was_bad])
    is_null = before.labels == 3
    assert torch.equal(after.labels == 3, is_null), "class dropout belongs to the position"
    kept = after.labels[~is_null]
    assert kept.tolist() == (stored_index(after)[(~is_null).numpy()] % 3).tolist()
    assert (loader.replaced_samples, loader.bad_shards) == (200, 1)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    pattern = rf"train-000004\.tar: {message}.*; until the next start, other samples are read in place of those in it"
    assert re.search(pattern, record.message)


def test_nothing_is_said_of_whole_shards(whole: Path, caplog: pytest.LogCaptureFixture) -> None:
    loader = build_loader(whole)
    loader.micro_batch(0)
    assert (loader.replaced_samples, loader.bad_shards, caplog.records) == (0, 0, [])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bad=st.sets(st.integers(0, 9), min_size=1, max_size=9),
    start=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6),
)
def test_what_a_position_reads_depends_on_nothing_that_was_read_before(
    write_shards: WriteShards, bad: set[int], start: int, sizes: list[int]
) -> None:
    """A stream cut anyhow, by a loader that came from elsewhere, is the stream that its words describe."""
    directory = write_shards(train=SAMPLES, shard_samples=SHARD_SAMPLES)
    for number in bad:
        shard(directory, number).unlink()
    steady = build_loader(directory, max_bad_shards=0.9)
    steady.micro_batch(0)
    found = []
    for size in sizes:
        steady.micro_batch_size = size
        found += stored_index(steady.micro_batch(start + len(found))).tolist()
    assert found == [expected_index(start + offset, bad) for offset in range(len(found))]


def test_replicas_and_a_fresh_start_read_the_same(whole: Path) -> None:
    for number in (2, 7):
        shard(whole, number).unlink()
    together = build_loader(whole, 100).train_micro_batch(12, 0)
    apart = [build_loader(whole, 25).train_micro_batch(12, replica) for replica in range(4)]
    assert torch.equal(together.codes, torch.cat([batch.codes for batch in apart]))
    assert torch.equal(together.labels, torch.cat([batch.labels for batch in apart]))


# --- When it stops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "bad", "allowed"), [(0, 1, 0), (0.09, 1, 0), (0.1, 2, 1), (0.35, 4, 3)])
def test_too_many_bad_shards_end_it(whole: Path, limit: float, bad: int, allowed: int) -> None:
    for number in range(bad - 1):
        shard(whole, number).unlink()
    loader = build_loader(whole, 200, max_bad_shards=limit)
    loader.micro_batch(0)  # so far they are few enough
    shard(whole, bad - 1).unlink()
    message = (
        rf"train-00000\d\.tar: the file is missing; run the same `elm tokenize` again, it replaces the file; "
        rf"{bad} of 10 training shards are bad, but data\.max_bad_shards={limit:g} allows {allowed}$"
    )
    with pytest.raises(ShardError, match=message):
        build_loader(whole, 200, max_bad_shards=limit).micro_batch(0)


def test_shards_without_samples_do_not_count(whole: Path) -> None:
    """Were the last shard with samples to go as well, there would be nothing to read."""
    manifest = load_manifest(whole)
    empty = manifest.files("train")[0].model_copy(update={"samples": 0})
    few = manifest.model_copy(update={"splits": {"train": (empty, manifest.files("train")[1])}})
    shard(whole, 1).unlink()
    reader = SubstitutingReader(ShardReader(whole, few, "train"), 0.9)
    with pytest.raises(ShardError, match=r"1 of 1 training shards are bad, but data\.max_bad_shards=0\.9 allows 0"):
        reader.read(lambda attempt: np.arange(5))


def test_validation_is_never_replaced(whole: Path) -> None:
    (whole / "validation-000000.tar").unlink()
    loader = build_loader(whole, max_bad_shards=0.9)
    loader.micro_batch(0)
    with pytest.raises(ShardError, match=r"validation-000000\.tar: the file is missing; run the same `elm tokenize`"):
        loader.validation_micro_batch(0, 0)


# --- Checksums -------------------------------------------------------------------------------------------------------

IN_CODES = 1024 + 512 + 128  # two headers of tar, one array of labels, and the header of an array


def test_a_flipped_byte_in_the_codes_is_found_when_it_is_looked_for(
    whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flip(shard(whole, 3), IN_CODES)
    blind = build_loader(whole, 200)
    blind.micro_batch(0)
    assert blind.bad_shards == 0
    loader = build_loader(whole, 200, verify=True)
    assert stored_index(loader.micro_batch(0)).tolist() == [expected_index(position, {3}) for position in range(200)]
    assert "train-000003.tar: the checksum is not that of the manifest; run the same" in caplog.text

    flip(whole / "validation-000000.tar", IN_CODES)
    with pytest.raises(ShardError, match=r"validation-000000\.tar: the checksum is not that of the manifest"):
        loader.validation_micro_batch(0, 0)


def test_a_shard_is_checked_in_full_once(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are closed and opened again where a run has very many: reading them in full each time would take ages."""
    monkeypatch.setattr(shards, "OPEN_SHARDS", 1)
    loader = build_loader(whole, 200, verify=True)
    loader.micro_batch(0)
    flip(shard(whole, 3), IN_CODES)
    loader.micro_batch(0)
    assert loader.bad_shards == 0

"""Which codes occur and how often: of codes that are known, of codes of 64 bits, and side by side in one command."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import elm, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from token_shards import write_token_shards

from elm_dist.analysis.code_utilisation import CURVE_POINTS, LISTED, analyze_codes, measure_use, rank_codes
from elm_dist.analysis.token_counts import TokenShards
from elm_dist.evaluation.code_statistics import CodeStatistics


def count(directory: Path, codes: NDArray[np.int64], code_bits: int) -> CodeStatistics:
    return TokenShards(write_token_shards(directory / "shards", codes, codes, code_bits)).count_codes("train")


def test_a_few_codes_by_hand(tmp_path: Path) -> None:
    found = count(tmp_path, np.array([[0b001, 0b001, 0b001, 0b011], [0b001, 0b011, 0b001, 0b111]]), 3)
    use = measure_use(found)
    assert (use["codes"], use["possible"], use["used"]) == (8, 8, 3)
    assert (use["utilisation_percent"], use["reachable_percent"]) == (37.5, 100)
    assert use["dead_bits"] == 1  # the last is always set
    assert (use["least_share_of_ones"], use["most_share_of_ones"]) == (1 / 8, 1)
    shares = np.array([5, 2, 1]) / 8
    assert use["entropy_bits"] == pytest.approx(-(shares * np.log2(shares)).sum())
    ranked = [(row["rank"], row["code"], row["bits"], row["count"]) for row in rank_codes(found)]
    assert ranked == [(1, 1, "001", 5), (2, 3, "011", 2), (3, 7, "111", 1)]
    assert [row["share_up_to_here_percent"] for row in rank_codes(found)] == [62.5, 87.5, 100]


def test_few_codes_cannot_reach_all(tmp_path: Path) -> None:
    use = measure_use(count(tmp_path, np.arange(64).reshape(4, 16), 8))
    assert use["utilisation_percent"] == use["reachable_percent"] == 25


def test_uniform_codes_use_all_and_all_bits(tmp_path: Path) -> None:
    use = measure_use(count(tmp_path, np.random.default_rng(0).integers(0, 64, (500, 16)), 6))
    assert (use["utilisation_percent"], use["dead_bits"]) == (100, 0)
    assert use["perplexity"] == pytest.approx(64, rel=0.01)
    assert 0.47 < use["least_share_of_ones"] < use["most_share_of_ones"] < 0.53


def test_codes_of_64_bits(tmp_path: Path) -> None:
    found = count(tmp_path, np.array([[-1, -1, 0, -1]]), 64)
    assert measure_use(found)["possible"] == 2**64
    most = rank_codes(found)[0]
    assert (most["code"], most["bits"], most["count"]) == (2**64 - 1, "1" * 64, 3)


@settings(deadline=None, max_examples=40)  # each writes files
@given(st.lists(st.integers(0, 255), min_size=1, max_size=300))
def test_the_curve_falls_from_the_most_frequent_to_all(
    tmp_path_factory: pytest.TempPathFactory, codes: list[int]
) -> None:
    found = count(tmp_path_factory.mktemp("codes"), np.array(codes)[:, None], 8)
    rows = rank_codes(found)
    assert len(rows) <= LISTED + CURVE_POINTS
    ranks, counts, shares = ([row[name] for row in rows] for name in ("rank", "count", "share_up_to_here_percent"))
    assert ranks == sorted(set(ranks))
    assert ranks[: min(LISTED, found.used)] == list(range(1, min(LISTED, found.used) + 1))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == max(codes.count(code) for code in codes)
    assert (ranks[-1], shares[-1]) == (len(set(codes)), pytest.approx(100))
    assert all(row["count"] == codes.count(row["code"]) for row in rows)


def test_the_command_puts_folders_of_any_bits_side_by_side(tokenized: Path, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 1024, (100, 16))
    wide = write_token_shards(tmp_path / "wide", codes[:80], codes[80:], 10)
    out = tmp_path / "out"
    result = elm("analyze", "codes", str(tokenized / "shards"), str(wide), "--out", str(out))
    assert result.code == 0, result
    with (out / "code_utilisation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], row["possible"]) for row in rows] == [
        (name, bits) for name, bits in ((str(tokenized / "shards"), "256"), (str(wide), "1024")) for _ in range(2)
    ]
    for row in rows:
        used = f"{int(row['used']):,} of {int(row['possible']):,} codes occur"
        assert used in " ".join(result.stdout.split())
    facts = json.loads((out / "code_frequencies.json").read_text())
    assert [source["code_bits"] for source in facts["settings"]["sources"]] == [8, 10]
    for name in ("code_utilisation", "code_frequencies"):
        assert str(wide) in (out / f"{name}.svg").read_text()


def test_codes_without_neighbours_are_fine_here(tmp_path: Path) -> None:
    shards = write_token_shards(tmp_path / "shards", np.arange(4)[:, None], np.arange(4)[:, None], 40)
    use, frequencies = analyze_codes([shards])
    assert (len(use.rows), len(frequencies.rows)) == (2, 4)


def test_a_folder_without_shards_is_refused(tokenized: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = refused("analyze", "codes", str(tokenized / "shards"), str(tmp_path), "--out", str(out))
    assert f"{tmp_path}: there are no token shards here" in said
    assert not out.exists()

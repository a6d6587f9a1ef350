"""Bits of codes that are known: fair, dead, and copies of each other."""

from pathlib import Path

import numpy as np
import pytest
from token_shards import write_token_shards

from elm_dist.analysis.token_bits import measure_bits, report_bits
from elm_dist.analysis.token_counts import TokenShards, count_shards


def test_each_bit_says_how_even_it_is_and_what_goes_with_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    fair, rare = random.random((500, 16)) < 0.5, random.random((500, 16)) < 0.1
    codes = 8 * fair + 4 * ~fair + 2 * rare  # bit 1 is the opposite of bit 0, bit 3 never set
    shards = TokenShards(write_token_shards(tmp_path / "shards", codes, codes[:100], 4))
    rows = measure_bits(count_shards(shards))
    assert [(row["split"], row["bit"], row["codes"]) for row in rows] == [
        (split, bit, codes) for split, codes in (("train", 8000), ("validation", 1600)) for bit in range(4)
    ]
    first, opposite, seldom, dead = rows[:4]
    assert first["share_of_ones"] == fair.mean()
    assert (first["strongest_with_bit"], first["strongest_correlation"]) == (1, pytest.approx(-1))
    assert (opposite["strongest_with_bit"], opposite["strongest_correlation"]) == (0, pytest.approx(-1))
    share = rare.mean()
    assert seldom["entropy_bits"] == pytest.approx(-share * np.log2(share) - (1 - share) * np.log2(1 - share))
    phi = abs(np.corrcoef(fair.flatten(), rare.flatten())[0, 1])
    assert seldom["mean_abs_correlation"] == pytest.approx(2 * phi / 3)
    assert (dead["share_of_ones"], dead["entropy_bits"], dead["mean_abs_correlation"]) == (0, 0, 0)
    summary = report_bits(rows, []).summary[f"{shards.directory} train"]
    assert summary.startswith("of 8,000 codes, bits are set in 0.0% to 5")
    assert summary.endswith("1.0000 at most")


def test_a_single_bit_goes_with_none(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 2, (20, 4))
    rows = measure_bits(count_shards(TokenShards(write_token_shards(tmp_path / "shards", codes, codes, 1))))
    assert [row["strongest_with_bit"] for row in rows] == ["", ""]
    assert [row["mean_abs_correlation"] for row in rows] == [0, 0]

"""Randomness of tokens whose distribution is known: uniform, constant, a cycle, a Markov chain; and of real codes."""

import csv
import json
import math
from collections import Counter
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import elm, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from token_shards import write_token_shards

from elm_dist.analysis.token_counts import TokenShards, count_shards
from elm_dist.analysis.token_randomness import (
    bigram_perplexity,
    measure_randomness,
    uniform_divergence,
    unigram_perplexity,
)
from elm_dist.evaluation.value_counts import ValueCounter, ValueCounts

Codes = NDArray[np.int64]


def count(values: list[int]) -> ValueCounts:
    counter = ValueCounter()
    counter.update(torch.tensor(values))
    return counter.counts()


def measure(directory: Path, train: Codes, validation: Codes, code_bits: int) -> dict[str, dict[str, Any]]:
    """Return the rows of these codes by such as "bigram train"."""
    source = count_shards(TokenShards(write_token_shards(directory / "shards", train, validation, code_bits)))
    return {f"{row['ngram']} {row['split']}": dict(row) for row in measure_randomness(source)}


def test_uniform_codes_are_as_random_as_chance(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (2500, 16))
    rows = measure(tmp_path, codes[:2000], codes[2000:], 8)
    assert rows["unigram train"]["counted"] == 32_000
    assert rows["bigram train"]["counted"] == 30_000
    for row in rows.values():
        # The chance that they are held against is neither nothing nor all: 0.004 to 0.1 nats here.
        assert row["kl_observed_nats"] == pytest.approx(row["kl_observed_chance_nats"], rel=0.1)
    assert rows["unigram train"]["kl_full_nats"] == pytest.approx(0, abs=0.01)
    assert rows["bigram train"]["kl_full_nats"] > rows["bigram train"]["kl_full_bound_nats"] > 0.7
    assert rows["unigram train"]["entropy_miller_madow_nats"] == pytest.approx(math.log(256), abs=1e-3)
    assert rows["unigram validation"]["perplexity"] == pytest.approx(256, rel=0.02)
    assert rows["bigram validation"]["perplexity"] == pytest.approx(256, rel=0.2)


def test_codes_that_never_change_are_not_random(tmp_path: Path) -> None:
    codes = np.full((30, 4), 200)
    rows = measure(tmp_path, codes, codes[:10], 8)
    for row in rows.values():
        assert (row["distinct"], row["kl_observed_nats"]) == (1, 0)
        assert row["entropy_nats"] == row["entropy_miller_madow_nats"] == 0
    assert rows["unigram train"]["kl_full_nats"] == pytest.approx(math.log(256))
    assert rows["bigram train"]["kl_full_nats"] == pytest.approx(2 * math.log(256))
    # One is added to each of 256 codes: of 120 codes, of 90 pairs.
    assert rows["unigram validation"]["perplexity"] == pytest.approx((120 + 256) / (120 + 1))
    assert rows["bigram validation"]["perplexity"] == pytest.approx((90 + 256) / (90 + 1))


def test_a_cycle_is_uniform_and_known_in_advance(tmp_path: Path) -> None:
    codes = np.tile(np.arange(16), (4000, 1))
    rows = measure(tmp_path, codes, codes[:10], 4)
    assert rows["unigram train"]["kl_full_nats"] == pytest.approx(0, abs=1e-9)
    assert rows["unigram validation"]["perplexity"] == pytest.approx(16)
    # 15 and not 16: the last code of an image is not the neighbour of the first one of the next.
    assert rows["bigram train"]["distinct"] == 15
    assert rows["bigram train"]["entropy_nats"] == pytest.approx(math.log(15))
    assert rows["bigram validation"]["perplexity"] == pytest.approx(4016 / 4001)


def test_a_markov_chain_has_the_entropies_of_theory(tmp_path: Path) -> None:
    """A code stays with probability 0.9 and else becomes any of 8, of which it may be itself."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 8, (6000, 16))
    for position in range(1, 16):
        stays = random.random(6000) < 0.9
        codes[stays, position] = codes[stays, position - 1]
    rows = measure(tmp_path, codes[:5000], codes[5000:], 3)
    same, other = 0.9 + 0.1 / 8, 0.1 / 8
    rate = -same * math.log(same) - 7 * other * math.log(other)
    assert rows["unigram train"]["entropy_nats"] == pytest.approx(math.log(8), abs=2e-3)
    assert rows["bigram train"]["entropy_nats"] == pytest.approx(math.log(8) + rate, abs=0.01)
    assert rows["bigram train"]["kl_full_nats"] == pytest.approx(math.log(8) - rate, abs=0.01)
    assert rows["bigram validation"]["perplexity"] == pytest.approx(math.exp(rate), rel=0.02)
    assert rows["unigram validation"]["perplexity"] == pytest.approx(8, rel=0.01)


@pytest.mark.parametrize(("total", "possible"), [(1, 5), (3, 2), (4, 3), (2, 6), (6, 4), (7, 1)])
def test_chance_is_the_mean_over_all_outcomes(total: int, possible: int) -> None:
    outcomes = [count(list(values)) for values in product(range(possible), repeat=total)]
    entropy = np.mean([outcome.entropy_nats for outcome in outcomes])
    distinct = np.mean([outcome.distinct for outcome in outcomes])
    assert uniform_divergence(total, possible) == pytest.approx(np.log(distinct) - entropy, abs=1e-12)


@pytest.mark.parametrize(("total", "possible"), [(3_000, 200_000), (20_000, 4_096), (100_000, 16)])
def test_chance_is_what_uniform_numbers_show(total: int, possible: int) -> None:
    random = np.random.default_rng(0)
    found = [count(random.integers(0, possible, total).tolist()) for _ in range(50)]
    observed = np.mean([math.log(each.distinct) - each.entropy_nats for each in found])
    assert observed == pytest.approx(uniform_divergence(total, possible), rel=0.1)


def test_chance_of_more_tokens_than_can_be_summed_over() -> None:
    # Each of K occurs n / K times, but for a Poisson variance: the entropy is too low by (K - 1) / 2n.
    assert uniform_divergence(10**10, 2**16) == pytest.approx((2**16 - 1) / (2 * 10**10), rel=0.01)
    assert uniform_divergence(10**6, 2**64) == pytest.approx(0, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2), st.lists(st.integers(0, 5), min_size=2))
def test_perplexities_are_those_of_the_definition(train: list[int], validation: list[int]) -> None:
    vocabulary = 6
    pairs = [[first * vocabulary + second for first, second in pairwise(part)] for part in (train, validation)]
    once, twice = Counter(train), Counter(pairwise(train))
    contexts = Counter(first for first, _ in pairwise(train))
    alone = [(once[token] + 1) / (len(train) + vocabulary) for token in validation]
    given_last = [(twice[first, second] + 1) / (contexts[first] + vocabulary) for first, second in pairwise(validation)]
    assert unigram_perplexity(count(train), count(validation), vocabulary) == pytest.approx(
        np.exp(-np.mean(np.log(alone)))
    )
    assert bigram_perplexity(count(pairs[0]), count(pairs[1]), vocabulary) == pytest.approx(
        np.exp(-np.mean(np.log(given_last)))
    )


def test_pairs_of_codes_of_32_bits_keep_their_context(tmp_path: Path) -> None:
    """Their numbers fill all of int64, so that half of them are negative."""
    codes = np.array([[2**32 - 1, 1, 2**32 - 1, 2], [7, 2**31, 7, 2**31]])
    rows = measure(tmp_path, codes, codes, 32)
    pairs = [pair for image in codes.tolist() for pair in pairwise(image)]
    seen, contexts = Counter(pairs), Counter(first for first, _ in pairs)
    nats = np.mean([math.log((contexts[first] + 2**32) / (seen[first, second] + 1)) for first, second in pairs])
    assert rows["bigram validation"]["perplexity"] == pytest.approx(math.exp(nats))


@settings(deadline=None, max_examples=40)  # each writes files
@given(
    st.lists(st.lists(st.integers(0, 15), min_size=4, max_size=4), min_size=1, max_size=30), st.permutations(range(16))
)
def test_bounds_hold_and_names_of_codes_mean_nothing(
    tmp_path_factory: pytest.TempPathFactory, images: list[list[int]], names: list[int]
) -> None:
    codes = np.array(images)
    rows = measure(tmp_path_factory.mktemp("codes"), codes, codes, 4)
    for row in rows.values():
        assert -1e-9 <= row["entropy_nats"] <= row["entropy_bound_nats"] + 1e-9
        assert row["entropy_nats"] <= row["entropy_miller_madow_nats"]
        assert -1e-9 <= row["kl_observed_nats"] <= row["kl_full_nats"] + 1e-9
        assert row["kl_full_bound_nats"] <= row["kl_full_nats"] + 1e-9
    renamed = measure(tmp_path_factory.mktemp("codes"), np.array(names)[codes], np.array(names)[codes], 4)
    for name, row in rows.items():
        numbers, others = ([v for v in each.values() if isinstance(v, float)] for each in (row, renamed[name]))
        assert numbers == pytest.approx(others)


def test_the_command_measures_shards_of_any_bits_beside_a_text(tokenized: Path, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 1024, (100, 16))
    wide = write_token_shards(tmp_path / "wide", codes[:80], codes[80:], 10)
    (tmp_path / "text.txt").write_text("the cat saw the dog and the dog saw the cat\n" * 30)
    sources = [str(tokenized / "shards"), str(wide), str(tmp_path / "text.txt")]
    result = elm("analyze", "tokens", *sources[:2], "--text", sources[2], "--out", str(tmp_path / "out"))
    assert result.code == 0, result
    assert "of N n-grams the entropy is ln N at most" in result.stdout
    with (tmp_path / "out" / "token_randomness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == [source for source in sources for _ in range(4)]
    # Eight bits of a tokenizer that learned nothing are far from uniform; ten bits of coin tosses are not.
    divergence = {row["source"]: float(row["kl_observed_nats"]) for row in rows if row["ngram"] == "unigram"}
    assert divergence[sources[0]] > 5 * divergence[sources[1]]
    with (tmp_path / "out" / "token_bits.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 8 + 2 * 10
    facts = json.loads((tmp_path / "out" / "token_randomness.json").read_text())
    assert [source.get("code_bits") for source in facts["settings"]["sources"]] == [8, 10, None]
    assert sources[1] in (tmp_path / "out" / "token_randomness.svg").read_text()


def test_a_folder_that_is_named_twice_counts_once(tokenized: Path, tmp_path: Path) -> None:
    shards = str(tokenized / "shards")
    assert elm("analyze", "tokens", shards, shards + "/", "--out", str(tmp_path)).code == 0
    with (tmp_path / "token_randomness.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4


def test_nothing_is_written_of_what_cannot_be_counted(tokenized: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "there are no token shards here" in refused("analyze", "tokens", str(tmp_path), "--out", str(out))
    assert "Missing argument 'SHARDS" in refused("analyze", "tokens", "--out", str(out))
    shards = str(tokenized / "shards")
    assert "the text cannot be read" in refused("analyze", "tokens", shards, "--text", "no.txt", "--out", str(out))
    single = write_token_shards(tmp_path / "single", np.zeros((4, 1), np.int64), np.zeros((4, 1), np.int64), 8)
    assert "an image is a single code" in refused("analyze", "tokens", shards, str(single), "--out", str(out))
    assert not out.exists()

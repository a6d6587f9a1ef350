"""Counts of codes and words and of their neighbours, against Python's own; and what cannot be counted."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from token_shards import write_token_shards

from elm_dist.analysis.token_counts import SplitCounts, TokenShards, check_pairs, count_shards, count_text
from elm_dist.data import marginals
from elm_dist.errors import EvaluationError, ShardError
from elm_dist.evaluation.value_counts import ValueCounts


def as_dict(counts: ValueCounts) -> dict[int, int]:
    return dict(zip(counts.values.tolist(), counts.counts.tolist(), strict=True))


def count_pairs(sequences: Iterable[Iterable[int]], vocabulary: int) -> Counter[int]:
    """Return how often each pair occurs, by the number that stands for it, with the sign that int64 gives it."""
    numbers = (first * vocabulary + second for sequence in sequences for first, second in pairwise(sequence))
    return Counter((number + 2**63) % 2**64 - 2**63 for number in numbers)


def draw(images: int, positions: int, bits: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 2**bits, (images, positions))


def of_train(directory: Path) -> SplitCounts:
    return count_shards(TokenShards(directory)).splits["train"]


@pytest.mark.parametrize("bits", [1, 5, 16, 32])
def test_codes_and_neighbours_within_images(tmp_path: Path, bits: int) -> None:
    train, validation = draw(50, 9, bits), draw(20, 9, bits, seed=1)
    source = count_shards(TokenShards(write_token_shards(tmp_path / "shards", train, validation, bits)))
    assert source.vocabulary == 2**bits
    for codes, split in ((train, "train"), (validation, "validation")):
        counts = source.splits[split]
        assert as_dict(counts.tokens) == Counter(codes.flatten().tolist())
        assert as_dict(counts.pairs) == count_pairs(codes.tolist(), 2**bits)
        assert counts.codes is not None
        assert counts.codes.codes == codes.size


def test_it_does_not_matter_how_they_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation = draw(200, 16, 10), draw(30, 16, 10)
    whole = of_train(write_token_shards(tmp_path / "one", train, validation, 10))
    monkeypatch.setattr(marginals, "CHUNK", 33)
    for name, stored in {"many": {"shard_samples": 41}, "certain": {"payload": "probabilities"}}.items():
        again = of_train(write_token_shards(tmp_path / name, train, validation, 10, **stored))
        assert as_dict(again.tokens) == as_dict(whole.tokens)
        assert as_dict(again.pairs) == as_dict(whole.pairs)


def test_bits_of_probabilities_are_drawn(tmp_path: Path) -> None:
    """Half of 2,000 images hold only ones, half only zeros; then every probability is made 51 of 255."""
    codes = np.repeat([[0], [2**8 - 1]], 4, axis=1).repeat(1000, axis=0)
    directory = write_token_shards(
        tmp_path / "shards", codes, codes[:4], 8, payload="probabilities", shard_samples=5000
    )
    shard = directory / "train-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"\xff" * 32, b"\x33" * 32))
    found = of_train(directory).codes
    assert found is not None
    np.testing.assert_allclose(found.ones, 0.1, atol=0.01)


@settings(deadline=None, max_examples=40)  # each writes files
@given(st.lists(st.sampled_from(["the", "cat's", "Zoë", "42", "x"]), min_size=20, max_size=60))
def test_words_and_their_neighbours(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" -- ".join(words).replace("cat's --", "CAT'S,\n"), encoding="utf-8")
    source = count_text(path)
    ids = {word: number for number, word in enumerate(dict.fromkeys(words))}
    held_out = len(words) // 10
    assert source.vocabulary == len(ids)
    for split, part in (("train", words[:-held_out]), ("validation", words[-held_out:])):
        numbers = [ids[word] for word in part]
        assert as_dict(source.splits[split].tokens) == Counter(numbers)
        assert as_dict(source.splits[split].pairs) == count_pairs([numbers], len(ids))
        assert source.splits[split].codes is None


def test_words_are_letters_and_digits_in_lower_case(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("It's, it\u2019s; _IT_ 'it' ÉTÉ été! 1,5" + "\nword" * 20, encoding="utf-8")
    assert count_text(path).vocabulary == len({"it's", "it\u2019s", "it", "été", "1", "5", "word"})


def test_folders_without_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="there are no token shards here"):
        TokenShards(tmp_path)


def test_shards_without_validation_images_are_refused(tmp_path: Path) -> None:
    directory = write_token_shards(tmp_path / "shards", draw(4, 4, 8), draw(0, 4, 8), 8)
    with pytest.raises(ShardError, match="these shards hold no validation samples, and both splits are measured; make"):
        TokenShards(directory)


def test_codes_without_neighbours_are_refused(tmp_path: Path) -> None:
    shards = TokenShards(write_token_shards(tmp_path / "shards", draw(4, 1, 8), draw(4, 1, 8), 8))
    with pytest.raises(EvaluationError, match=r"an image is a single code here.*give shards of a larger grid"):
        check_pairs(shards)


def test_codes_that_are_too_long_for_pairs_are_refused(tmp_path: Path) -> None:
    shards = TokenShards(write_token_shards(tmp_path / "shards", draw(4, 4, 33), draw(4, 4, 33), 33))
    with pytest.raises(EvaluationError, match=r"codes have 33 bits, .* of up to 32; for single codes use `elm analyze"):
        check_pairs(shards)


@pytest.mark.parametrize(("content", "words"), [(b"", 0), (b"... !!\n--\n", 0), (b"a b c\n" * 6, 18)])
def test_texts_of_too_few_words_are_refused(tmp_path: Path, content: bytes, words: int) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(EvaluationError, match=f"there are {words} words in this text, and 20 are needed at least"):
        count_text(tmp_path / "text.txt")


def test_texts_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes("été ".encode("latin-1") * 20)
    with pytest.raises(EvaluationError, match=r"text.txt: the text is not UTF-8 \(.*\); convert it first"):
        count_text(tmp_path / "text.txt")


@pytest.mark.parametrize(("name", "reason"), [("nothing.txt", "No such file"), (".", "Is a directory")])
def test_texts_that_cannot_be_read_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(EvaluationError, match=rf"the text cannot be read \({reason}.*\); give a plain UTF-8 file"):
        count_text(tmp_path / name)

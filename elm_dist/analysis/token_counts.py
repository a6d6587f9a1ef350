"""Where tokens are counted: in shards, code by code in raster order, and for contrast in a text, word by word.

Counts tokens and pairs of neighbours and knows nothing of what they say. Shards are read as a stream: memory grows with
the tokens and pairs that differ.
"""

import re
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from elm_dist.codes.packing import unpack_subtokens
from elm_dist.codes.subtokens import CodeShape
from elm_dist.data.marginals import CHUNK, read_in_order
from elm_dist.data.payload import draw_codes
from elm_dist.data.shards import REMAKE, ShardReader, Split, load_manifest
from elm_dist.errors import EvaluationError, ShardError
from elm_dist.evaluation.code_statistics import CodeCounter, CodeStatistics
from elm_dist.evaluation.value_counts import ValueCounter, ValueCounts
from elm_dist.files import sha256

SPLITS: tuple[Split, Split] = ("train", "validation")
COUNTED_IMAGES = 512  # whose bits are unpacked at once: 2 M bits and 16 MB at 256 codes of 16 bits
PAIR_BITS = 64  # of one number that stands for two codes
DRAW_SEED = 0  # of the bits of shards that hold probabilities

WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")  # letters and digits, with the apostrophes inside
HELD_OUT = 10  # the last 1/10 of a text is its validation split
FEWEST_WORDS = 2 * HELD_OUT  # of which a pair can be held out


class SplitCounts(NamedTuple):
    tokens: ValueCounts
    pairs: ValueCounts  # of neighbours; first * vocabulary + second, modulo 2^64
    codes: CodeStatistics | None  # None for a text, which has no bits


@dataclass(frozen=True)
class TokenSource:
    """The counts of one folder of shards or one text."""

    name: str
    vocabulary: int  # different tokens that there can be
    splits: Mapping[Split, SplitCounts]


class TokenShards:
    """The codes of a folder of shards; raises ShardError unless both splits have some."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.manifest = directory, load_manifest(directory)
        empty = [split for split in SPLITS if not self.manifest.samples(split)]
        if empty:
            raise ShardError(
                f"{directory}: these shards hold no {empty[0]} samples, and both splits are measured; {REMAKE}"
            )
        code_bits = self.manifest.code_bits
        self.shape = CodeShape(self.manifest.image_bits // code_bits, subtokens=1, subtoken_bits=code_bits)

    def batches(self, split: Split) -> Iterator[Tensor]:
        """Yield the packed codes (batch, packed_bytes) of all images in stored order, and show how far it is.

        Of shards that hold probabilities it is one draw, as training gets a new one in each epoch.
        """
        reader, done = ShardReader(self.directory, self.manifest, split), 0
        shown = track(
            read_in_order(reader),
            f"{self.directory} {split}",
            total=-(-len(reader) // CHUNK),
            transient=True,
            disable=not sys.stdout.isatty(),
        )
        for stored, _ in shown:
            codes = draw_codes(stored, self.manifest, DRAW_SEED, np.arange(done, done + len(stored)))
            done += len(stored)
            yield from torch.from_numpy(codes).split(COUNTED_IMAGES)

    def count_codes(self, split: Split) -> CodeStatistics:
        """Return how often each code and each bit occurs."""
        counter = CodeCounter(self.shape, self.shape.vocabulary)
        for packed in self.batches(split):
            counter.update(packed)
        return counter.statistics()

    def settings(self) -> dict[str, Any]:
        """Return what decides the numbers."""
        return {
            "shards": str(self.directory),
            "manifest_sha256": self.manifest.fingerprint,
            "tokenizer_fingerprint": self.manifest.tokenizer_fingerprint,
            "payload": self.manifest.payload,
            "draw_seed": DRAW_SEED if self.manifest.payload == "probabilities" else None,
            "code_bits": self.shape.code_bits,
            "codes_of_an_image": self.shape.positions,
            "images": {split: self.manifest.samples(split) for split in SPLITS},
        }


def check_pairs(shards: TokenShards) -> None:
    """Raise EvaluationError if codes of these shards have no neighbours, or are too long for pairs to be counted."""
    if shards.shape.positions == 1:
        raise EvaluationError(
            f"{shards.directory}: an image is a single code here, which has no neighbour; give shards of a larger grid"
        )
    if 2 * shards.shape.code_bits > PAIR_BITS:
        raise EvaluationError(
            f"{shards.directory}: codes have {shards.shape.code_bits} bits, and pairs are counted of codes of up to "
            f"{PAIR_BITS // 2}; for single codes use `elm analyze codes`"
        )


def count_shards(shards: TokenShards) -> TokenSource:
    """Count codes and pairs of codes that follow each other in raster order in the same image."""
    return TokenSource(
        str(shards.directory), shards.shape.vocabulary, {split: _count_split(shards, split) for split in SPLITS}
    )


def _count_split(shards: TokenShards, split: Split) -> SplitCounts:
    codes, pairs = CodeCounter(shards.shape, shards.shape.vocabulary), ValueCounter()
    for packed in shards.batches(split):
        codes.update(packed)
        tokens = unpack_subtokens(packed, shards.shape).squeeze(2)
        pairs.update(_pair_up(tokens, shards.shape.vocabulary))
    statistics = codes.statistics()
    return SplitCounts(statistics.values, pairs.counts(), statistics)


def count_text(path: Path) -> TokenSource:
    """Count the words of a UTF-8 file, lower-cased, without punctuation; its last tenth is the validation split.

    The vocabulary is all words of the file. It takes 4 bytes of memory a word. Raises EvaluationError for a file that
    cannot be read, is not UTF-8, or has too few words.
    """
    vocabulary: dict[str, int] = {}
    words = array("i", (vocabulary.setdefault(word, len(vocabulary)) for word in _read_words(path)))
    if len(words) < FEWEST_WORDS:
        raise EvaluationError(
            f"{path}: there are {len(words)} words in this text, and {FEWEST_WORDS} are needed at least; give a longer "
            "one"
        )
    held_out = len(words) // HELD_OUT
    train, validation = torch.from_numpy(np.array(words)).long().split([len(words) - held_out, held_out])
    splits = {"train": train, "validation": validation}
    return TokenSource(
        str(path), len(vocabulary), {split: _count_words(splits[split], len(vocabulary)) for split in SPLITS}
    )


def text_settings(path: Path) -> dict[str, Any]:
    """Return what decides the numbers of a text."""
    return {"text": str(path), "sha256": sha256(path), "tokens": "words, lower-cased", "held_out": f"1/{HELD_OUT}"}


def _count_words(words: Tensor, vocabulary: int) -> SplitCounts:
    tokens, pairs = ValueCounter(), ValueCounter()
    tokens.update(words)
    pairs.update(_pair_up(words, vocabulary))
    return SplitCounts(tokens.counts(), pairs.counts(), None)


def _read_words(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as text:
            for line in text:
                yield from WORD.findall(line.lower())
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path}: the text is not UTF-8 ({error.reason}); convert it first") from None
    except OSError as error:
        raise EvaluationError(
            f"{path}: the text cannot be read ({error.strerror}); give a plain UTF-8 file with --text"
        ) from None


def _pair_up(tokens: Tensor, vocabulary: int) -> Tensor:
    """Return a number for each token (..., n) and its successor, (..., n - 1)."""
    return tokens[..., :-1] * vocabulary + tokens[..., 1:]

"""How random tokens are: how far single ones and pairs of neighbours are from uniform, and how well counts predict.

Reproduces tables 5 and 6 of the paper (appendix A.4), which do not say what KL is to: its figures fit the uniform
distribution over what occurs. That distance shrinks to nothing where most pairs occur once, however much structure
there is, so each figure stands beside what chance alone would give for as many tokens. Knows nothing of files.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from elm_dist.analysis.figures import BLUE, GREY, ORANGE, explain_line
from elm_dist.analysis.findings import Findings, Row
from elm_dist.analysis.token_bits import measure_bits, report_bits
from elm_dist.analysis.token_counts import (
    SPLITS,
    TokenShards,
    TokenSource,
    check_pairs,
    count_shards,
    count_text,
    text_settings,
)
from elm_dist.evaluation.value_counts import ValueCounts

NGRAMS = ("unigram", "bigram")
DEVIATIONS = 12  # around a mean, which leave less than 1e-30 of a binomial distribution out


def analyze_tokens(shards: Sequence[Path], text: Path | None) -> list[Findings]:
    """Return the randomness of the tokens of folders of shards and a text, and of the bits of the former.

    Raises an ElmError for shards and texts that cannot be counted, before it counts any shards.
    """
    opened = [TokenShards(directory) for directory in dict.fromkeys(shards)]
    for each in opened:
        check_pairs(each)
    settings: list[dict[str, Any]] = [each.settings() for each in opened]
    of_text = measure_randomness(count_text(text)) if text else []
    measured = [_measure(each) for each in opened]
    rows = [row for randomness, _ in measured for row in randomness]
    bits = [row for _, of_bits in measured for row in of_bits]
    with_text = [*settings, text_settings(text)] if text else settings
    return [report_randomness(rows + of_text, with_text), report_bits(bits, settings)]


def _measure(shards: TokenShards) -> tuple[list[Row], list[Row]]:
    """Return the rows of n-grams and of bits; their counts, which may take most of the memory, are gone by then."""
    source = count_shards(shards)
    return measure_randomness(source), measure_bits(source)


def measure_randomness(source: TokenSource) -> list[Row]:
    """Return a row for unigrams and bigrams of each split; entropies and KL in nats."""
    train, validation = (source.splits[split] for split in SPLITS)
    perplexities = (
        unigram_perplexity(train.tokens, validation.tokens, source.vocabulary),
        bigram_perplexity(train.pairs, validation.pairs, source.vocabulary),
    )
    rows: list[Row] = []
    for order, (ngram, perplexity) in enumerate(zip(NGRAMS, perplexities, strict=True), 1):
        for split in SPLITS:
            counts = source.splits[split].tokens if order == 1 else source.splits[split].pairs
            rows.append(
                {
                    "source": source.name,
                    "ngram": ngram,
                    "split": split,
                    **_measure_counts(counts, source.vocabulary**order),
                    "perplexity": perplexity if split == "validation" else "",
                }
            )
    return rows


def _measure_counts(counts: ValueCounts, possible: int) -> dict[str, Any]:
    entropy, total = counts.entropy_nats, counts.total
    return {
        "counted": total,
        "distinct": counts.distinct,
        "entropy_nats": entropy,
        # Miller & Madow (1955): the plug-in entropy is too low by about this much where each n-gram occurs often.
        "entropy_miller_madow_nats": entropy + (counts.distinct - 1) / (2 * total),
        "entropy_bound_nats": math.log(min(total, possible)),
        "kl_observed_nats": math.log(counts.distinct) - entropy,
        "kl_observed_chance_nats": uniform_divergence(total, possible),
        "kl_full_nats": math.log(possible) - entropy,
        "kl_full_bound_nats": math.log(possible) - math.log(min(total, possible)),
    }


def uniform_divergence(total: int, possible: int) -> float:
    """Return ln(distinct) - entropy, in nats, that `total` draws from a uniform distribution are expected to show.

    A draw shares its value with C others, binomial over the total - 1 others, so the expected plug-in entropy is
    ln(total) - E[ln(1 + C)].
    """
    if possible == 1:
        return 0.0
    others = total - 1
    mean = others / possible
    reach = DEVIATIONS * math.sqrt(mean) + 3 * DEVIATIONS
    shared = torch.arange(max(0, int(mean - reach)), min(others, int(mean + reach)) + 1, dtype=torch.float64)
    # The logarithms of a chance over that of one fewer, added up: factorials of billions would lose the digits.
    ratios = (others - shared[:-1]).log() - shared[1:].log() - math.log(possible - 1)
    chances = torch.cat([torch.zeros(1, dtype=torch.float64), ratios.cumsum(0)]).softmax(0)
    entropy = math.log(total) - (chances * shared.log1p()).sum().item()
    distinct = -possible * math.expm1(total * math.log1p(-1 / possible))
    return max(math.log(distinct) - entropy, 0.0)  # not below by a rounding


def unigram_perplexity(train: ValueCounts, validation: ValueCounts, vocabulary: int) -> float:
    """Return the perplexity of held-out tokens by the counts of training, each increased by one (Laplace)."""
    return _perplexity(train.of(validation.values), torch.tensor(train.total), validation.counts, vocabulary)


def bigram_perplexity(train: ValueCounts, validation: ValueCounts, vocabulary: int) -> float:
    """Return the perplexity of held-out tokens, each given the one before it, by counts of pairs plus one."""
    contexts = train.merged(train.values // vocabulary)
    given = contexts.of(validation.values // vocabulary)
    return _perplexity(train.of(validation.values), given, validation.counts, vocabulary)


def _perplexity(seen: Tensor, of: Tensor, weights: Tensor, vocabulary: int) -> float:
    """Return the perplexity of tokens that were `seen` so often of so many times; each occurs `weights` times now."""
    nats = (of.double() + vocabulary).log() - (seen.double() + 1).log()
    return math.exp((nats * weights).sum().item() / weights.sum().item())


def report_randomness(rows: Sequence[Row], settings: Sequence[dict[str, Any]]) -> Findings:
    """Return the rows of all sources as one result."""
    return Findings(
        name="token_randomness",
        title="How far tokens are from uniform",
        rows=rows,
        summary={name: _describe([row for row in rows if row["source"] == name]) for name in _sources(rows)}
        | {
            "observed": "KL to the uniform distribution over what occurs, ln(distinct) - entropy; chance is what "
            "as many uniform tokens would show",
            "full": "KL to the uniform distribution over all that is possible; its bound is what is left even if "
            "all that was counted is distinct",
            "caveat": "of N n-grams the entropy is ln N at most: where it is near its bound, too few were counted "
            "for it, and for KL, to say anything of the tokens",
        },
        settings={"sources": list(settings)},
        draw=partial(_draw, rows),
    )


def _sources(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["source"] for row in rows))


def _describe(rows: Sequence[Row]) -> str:
    """Say in one line what the training split shows, and how well it predicts the other."""
    parts = []
    for ngram in NGRAMS:
        train, validation = (next(r for r in rows if (r["ngram"], r["split"]) == (ngram, s)) for s in SPLITS)
        parts.append(
            f"{train['counted']:,} {ngram}s: KL {train['kl_observed_nats']:.2f} nats observed (chance "
            f"{train['kl_observed_chance_nats']:.2f}), {train['kl_full_nats']:.2f} full (at least "
            f"{train['kl_full_bound_nats']:.2f}), entropy {train['entropy_nats']:.2f} of at most "
            f"{train['entropy_bound_nats']:.2f}, perplexity {validation['perplexity']:,.0f}"
        )
    return "; ".join(parts)


def _draw(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(10, 2.6 + 0.9 * len(_sources(rows))))
    axes = figure.subplots(2, 2, sharey=True)
    for column, ngram in enumerate(NGRAMS):
        chosen = [row for row in rows if row["ngram"] == ngram]
        _draw_bars(axes[0, column], chosen, "kl_observed_nats", "kl_observed_chance_nats", "uniform tokens")
        _draw_bars(axes[1, column], chosen, "kl_full_nats", "kl_full_bound_nats", "nothing twice")
        axes[0, column].set_title(f"{ngram.capitalize()}s, of what occurs")
        axes[1, column].set(title=f"{ngram.capitalize()}s, of all possible", xlabel="KL to uniform, nats")
    axes[0, 0].invert_yaxis()  # the first source on top
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(SPLITS))
    return figure


def _draw_bars(axes: Axes, rows: Sequence[Row], column: str, floor: str, explained: str) -> None:
    names, height = _sources(rows), 0.38
    for offset, split, color in zip((-0.5, 0.5), SPLITS, (BLUE, GREY), strict=True):
        chosen = [row for row in rows if row["split"] == split]
        places = [place + offset * height for place in range(len(names))]
        axes.barh(places, [row[column] for row in chosen], height, color=color, label=split)
        starts, ends = ([place + side * height / 2 for place in places] for side in (-1, 1))
        axes.vlines([row[floor] for row in chosen], starts, ends, color=ORANGE, linewidth=2)
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    explain_line(axes, explained)

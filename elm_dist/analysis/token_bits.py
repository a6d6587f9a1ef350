"""What the single bits of codes say: how often each is set, how much it says, and which other goes with it.

Knows nothing of how codes are counted.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from elm_dist.analysis.findings import Findings, Row
from elm_dist.analysis.token_counts import TokenSource
from elm_dist.evaluation.code_statistics import CodeStatistics


def measure_bits(source: TokenSource) -> list[Row]:
    """Return a row for each bit of each split; none for a text."""
    return [
        {"source": source.name, "split": split} | row
        for split, counts in source.splits.items()
        if counts.codes
        for row in _measure_split(counts.codes)
    ]


def _measure_split(codes: CodeStatistics) -> list[dict[str, Any]]:
    bits = len(codes.ones)
    others = codes.correlation.clone().fill_diagonal_(0)
    partners = others.abs().argmax(dim=1)
    return [
        {
            "bit": bit,
            "codes": codes.codes,
            "share_of_ones": codes.ones[bit].item(),
            "entropy_bits": codes.bit_entropies[bit].item(),
            "mean_abs_correlation": others[bit].abs().sum().item() / max(bits - 1, 1),
            "strongest_correlation": others[bit, partners[bit]].item(),
            "strongest_with_bit": partners[bit].item() if bits > 1 else "",
        }
        for bit in range(bits)
    ]


def report_bits(rows: Sequence[Row], settings: Sequence[dict[str, Any]]) -> Findings:
    """Return the rows of all sources as one result."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{row['source']} {row['split']}", []).append(row)
    return Findings(
        name="token_bits",
        title="What the bits of codes say",
        rows=rows,
        summary={name: _describe(group) for name, group in groups.items()}
        | {"correlation": "phi coefficients of two bits of the same code; 0 where one of them never changes"},
        settings={"sources": list(settings)},
        draw=partial(_draw, {name: group for name, group in groups.items() if group[0]["split"] == "train"}),
    )


def _describe(rows: Sequence[Row]) -> str:
    shares, entropies, correlations = (
        np.array([row[column] for row in rows]) for column in ("share_of_ones", "entropy_bits", "mean_abs_correlation")
    )
    strongest = max(abs(row["strongest_correlation"]) for row in rows)
    return (
        f"of {rows[0]['codes']:,} codes, bits are set in {shares.min():.1%} to {shares.max():.1%} and say "
        f"{entropies.mean():.4f} bits on average; two bits correlate by {correlations.mean():.4f} on average, "
        f"{strongest:.4f} at most"
    )


def _draw(groups: dict[str, list[Row]]) -> Figure:
    figure = Figure(figsize=(10, 3.6))
    left, right = figure.subplots(1, 2)
    for rows in groups.values():
        places = [row["bit"] for row in rows]
        left.plot(places, [row["entropy_bits"] for row in rows], marker="o", markersize=3, label=rows[0]["source"])
        right.plot(places, [abs(row["strongest_correlation"]) for row in rows], marker="o", markersize=3)
    left.set(title="What each bit says", ylabel="bits", ylim=(0, 1.03))
    right.set(title="Its strongest correlation with another", ylabel="|phi|", ylim=(0, 1.03))
    figure.legend(loc="outside lower center", ncols=3)
    for axes in (left, right):
        axes.set_xlabel("bit, the most significant first")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure

"""How tokenizers use their codes, side by side: which of them occur, how often, and how even each bit is.

Knows nothing of how codes are counted.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from elm_dist.analysis.figures import GREY, ORANGE, explain_line
from elm_dist.analysis.findings import Findings, Row
from elm_dist.analysis.token_counts import SPLITS, TokenShards
from elm_dist.evaluation.code_statistics import CodeStatistics

LISTED = 10  # most frequent codes that are listed one by one
CURVE_POINTS = 40  # of the rest of the frequency curve, evenly in their logarithm

Statistics = Mapping[str, CodeStatistics]  # by the folder of the shards


def analyze_codes(shards: Sequence[Path]) -> list[Findings]:
    """Return how folders of shards use their codes, and how often each code occurs; raises ShardError."""
    opened = [TokenShards(directory) for directory in dict.fromkeys(shards)]
    settings = {"sources": [each.settings() for each in opened]}
    rows: list[Row] = []
    train: dict[str, CodeStatistics] = {}
    for each in opened:
        name = str(each.directory)
        found = {split: each.count_codes(split) for split in SPLITS}
        rows += [{"source": name, "split": split} | measure_use(codes) for split, codes in found.items()]
        train[name] = found["train"]
    return [_report_use(rows, train, settings), _report_frequencies(train, settings)]


def measure_use(codes: CodeStatistics) -> dict[str, Any]:
    """Return the columns that say how codes and bits are used; dead bits are those that never change."""
    return {
        "codes": codes.codes,
        "possible": codes.possible,
        "used": codes.used,
        "utilisation_percent": 100 * codes.utilization,
        "reachable_percent": 100 * min(codes.codes, codes.possible) / codes.possible,  # with so many codes at most
        "entropy_bits": codes.entropy_bits,
        "perplexity": codes.perplexity,
        "dead_bits": int((codes.bit_entropies == 0).sum()),
        "least_share_of_ones": codes.ones.min().item(),
        "most_share_of_ones": codes.ones.max().item(),
        "mean_bit_entropy_bits": codes.bit_entropies.mean().item(),
    }


def rank_codes(codes: CodeStatistics) -> list[dict[str, Any]]:
    """Return the most frequent codes, the first LISTED of them and then ever fewer, down to the rarest."""
    order = codes.values.counts.argsort(descending=True, stable=True)
    counts = codes.values.counts[order]
    together = counts.cumsum(0)
    curve = np.geomspace(1, codes.used, CURVE_POINTS).astype(int).tolist()
    ranks = sorted({*range(1, min(LISTED, codes.used) + 1), *curve})
    bits = len(codes.ones)
    return [
        {
            "rank": rank,
            "code": (code := codes.values.values[order[rank - 1]].item() % 2**bits),
            "bits": f"{code:0{bits}b}",
            "count": counts[rank - 1].item(),
            "share_percent": 100 * counts[rank - 1].item() / codes.codes,
            "share_up_to_here_percent": 100 * together[rank - 1].item() / codes.codes,
        }
        for rank in ranks
    ]


def _report_use(rows: Sequence[Row], train: Statistics, settings: Mapping[str, Any]) -> Findings:
    return Findings(
        name="code_utilisation",
        title="Which of the possible codes occur",
        rows=rows,
        summary={f"{row['source']} {row['split']}": _describe(row) for row in rows}
        | {
            "reachable": "the largest utilisation that so few codes can show; where it is not 100, compare folders of "
            "equally many codes only"
        },
        settings=settings,
        draw=partial(_draw_use, rows, train),
    )


def _describe(row: Row) -> str:
    return (
        f"{row['used']:,} of {row['possible']:,} codes occur, {row['utilisation_percent']:.2f} %, among "
        f"{row['codes']:,}; {row['dead_bits']} bits never change"
    )


def _report_frequencies(train: Statistics, settings: Mapping[str, Any]) -> Findings:
    rows = [{"source": name} | row for name, codes in train.items() for row in rank_codes(codes)]
    return Findings(
        name="code_frequencies",
        title="The most frequent codes of the training images",
        rows=rows,
        summary={
            name: f"the most frequent code is {codes.counts[0] / codes.codes:.2%} of all; "
            f"{(codes.counts == 1).sum():,} of {codes.used:,} codes that occur do so once"
            for name, codes in train.items()
        },
        settings=settings,
        draw=partial(_draw_frequencies, rows, train),
    )


def _draw_use(rows: Sequence[Row], train: Statistics) -> Figure:
    figure = Figure(figsize=(10, 3.6))
    left, right = figure.subplots(1, 2)
    _draw_share(left, [row for row in rows if row["split"] == "train"])
    for name, codes in train.items():
        right.plot(100 * codes.ones.numpy(), marker="o", markersize=3, label=name)
    right.axhline(50, color=GREY, linewidth=1)
    right.set(title="How often each bit is set", xlabel="bit, the most significant first", ylabel="% of codes")
    right.set_ylim(0, 100)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _draw_share(axes: Axes, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    axes.barh(places, [row["utilisation_percent"] for row in rows], height=0.6)
    starts, ends = ([place + side for place in places] for side in (-0.3, 0.3))
    axes.vlines([row["reachable_percent"] for row in rows], starts, ends, color=ORANGE, linewidth=2)
    axes.set_yticks(places, [row["source"] for row in rows])
    axes.set(title="Codes that occur", xlabel="% of the possible ones", xlim=(0, 103))
    axes.invert_yaxis()  # the first source on top
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    explain_line(axes, "with so many codes at most")


def _draw_frequencies(rows: Sequence[Row], train: Statistics) -> Figure:
    figure = Figure(figsize=(10, 3.6))
    left, right = figure.subplots(1, 2)
    for name in train:
        ranked = [row for row in rows if row["source"] == name]
        ranks = [row["rank"] for row in ranked]
        left.loglog(ranks, [row["share_percent"] for row in ranked], label=name)
        right.semilogx(ranks, [row["share_up_to_here_percent"] for row in ranked])
    left.set(title="How often each code occurs", ylabel="% of all codes")
    right.set(title="How much the most frequent make up", ylabel="% of all codes", ylim=(0, 103))
    figure.legend(loc="outside lower center", ncols=3)
    for axes in (left, right):
        axes.set_xlabel("codes, the most frequent first")
    return figure

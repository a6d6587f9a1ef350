"""What the paper found, what here speaks to it, and the verdict, which rules make of the numbers.

Each finding says of some variants that one is better than others. Knows nothing of how numbers come about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from elm_dist.study.results import MEASURES, Result, lay_out
from elm_dist.study.spread import Interval
from elm_dist.study.variants import BASE, CONTROLS, VARIANTS

Verdict = Literal["shows", "does not show", "cannot tell at this scale"]


@dataclass(frozen=True)
class Claim:
    """That by one measure a variant is better than each of some others."""

    measure: str
    better: str
    than: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """A finding of the paper, and what stands for it here; it shows if all of its claims do."""

    title: str
    paper: str
    here: str
    claims: tuple[Claim, ...]
    beside: tuple[Claim, ...] = ()  # what is of interest, too, and decides nothing: the paper does not claim it
    figures: tuple[str, ...] = ()  # of the page's folder, without the suffix


class Comparison(NamedTuple):
    """Two variants by one measure, and how much better the first is: below 0 it is worse."""

    measure: str
    better: str
    worse: str
    means: tuple[float, float]
    gain: Interval
    is_sound: bool = True  # whether the measure puts both before models that are not trained

    @property
    def verdict(self) -> Verdict:
        if self.is_sound and self.gain.low > 0:
            return "shows"
        return "does not show" if self.is_sound and self.gain.high < 0 else "cannot tell at this scale"


OF_SAMPLES = ("fd", "guided_fd")

ORDERS = ("column_raster", "row_zigzag", "column_zigzag", "diagonal_zigzag")

FINDINGS = (
    Finding(
        "A BAE gives images back better than a VQGAN",
        "rFID 3.32 of BAE 2^16 against 7.41 of VQGAN 16384 (table 1)",
        "both with 4,096 codes, of one architecture and trained equally long with the same losses, on held-out images",
        (Claim("reconstruction_fd", "bae", ("vqgan",)), Claim("psnr_db", "bae", ("vqgan",))),
    ),
    Finding(
        "A BAE uses all of its codes, a VQGAN few",
        "100 % of 65,536 against about 8 % of 16,384 (section 3.2)",
        "the share of 4,096 codes that occur among the likeliest codes of held-out images. This VQGAN revives entries "
        "that nothing uses, which the one that the paper measured did not",
        (Claim("utilisation_percent", "bae", ("vqgan",)),),
        figures=("code_utilisation",),
    ),
    Finding(
        "Image tokens are close to random, those of a BAE closest",
        "KL to uniform 0.24 nats of BAE against 1.00 of VQGAN, 3.25 of words (tables 5 and 6)",
        "KL of single codes to uniform over those that occur, in held-out images; the figure has pairs, too",
        (Claim("unigram_kl_nats", "bae", ("vqgan",)),),
        figures=("token_randomness",),
    ),
    Finding(
        "Generation is better on codes of a BAE",
        "gFID 2.78 on BAE 2^16 against 6.71 on VQGAN 16384 (tables 1 and 9)",
        "the same model on the codes of both, 4,096 of each and each predicted whole",
        (Claim("fd", "1-12", ("vqgan",)),),
    ),
    Finding(
        "Autoregressive models draw better than masked ones",
        "gFID 2.38 against 3.67 of L (tables 9 and 11)",
        "the same transformer trained equally long; masked drawing in 10 passes. The paper finds that masked ones take "
        "twice as many epochs to converge (table 8), and none converges here",
        (Claim("fd", BASE, ("masked",)),),
    ),
    Finding(
        "Codes that are drawn from the BAE's probabilities train better than fixed ones",
        "gFID 2.88 against 3.13 (table 10)",
        "shards that store probabilities, drawn from anew in each epoch, against the likelier value of each bit",
        (Claim("fd", BASE, ("deterministic",)),),
    ),
    Finding(
        "Two sub-codes are better than one, and than more",
        "L: FID 2.38 with 1-16, 2.17 with 2-10 (table 12); more heads, more loss (figure 14)",
        "12 bits of a code as 1-12, 2-6 and 3-4; the tables of 1-12 make its model much the largest",
        (Claim("fd", BASE, ("1-12", "3-4")), Claim("bits", BASE, ("3-4",))),
        beside=(Claim("bits", BASE, ("1-12",)),),
    ),
    Finding(
        "Larger models are better",
        "loss 6.70, 6.59 and 6.40 of L, XL and XXL (figure 15); FID 2.17, 1.73, 1.65 with 2-10 (table 12)",
        "three sizes that saw the same images in the same order",
        (
            Claim("bits", BASE, ("small",)),
            Claim("bits", "large", (BASE,)),
            Claim("fd", BASE, ("small",)),
            Claim("fd", "large", (BASE,)),
        ),
        figures=("scaling",),
    ),
    Finding(
        "Row by row is the best order",
        "FID 2.47 of row raster against 2.62 to 2.88 (table 2)",
        "five orders of the same codes",
        (Claim("fd", BASE, ORDERS),),
        beside=(Claim("bits", BASE, ORDERS),),
    ),
    Finding(
        "Guidance that grows linearly draws best",
        "FID 2.48 of linear 1 to 4, against 3.35 of constant 2 and 2.86 of cos 1 to 4 (table 13)",
        "the base, sampled with the same random numbers each time",
        (Claim("guided_fd", "linear 4", ("constant 2", "cos 4")),),
        figures=("sampling-0",),
    ),
    Finding(
        "Larger models look farther",
        "a local band in all layers, and long range only in the larger model (figure 4)",
        "the mean distance on the grid that heads attend to, as a share of that of uniform attention",
        (Claim("attention_distance", "large", ("small",)),),
        figures=("attention-small-0", "attention-large-0"),
    ),
)


def compare(results: Sequence[Result], claims: Sequence[Claim]) -> list[Comparison]:
    """Return what the results say of each claim, in their order."""
    return [comparison for claim in claims for comparison in _compare(results, claim)]


def judge(results: Sequence[Result], finding: Finding) -> Verdict:
    """Return what the claims of a finding come to: one that is refuted refutes it, one unclear leaves it open."""
    verdicts = {comparison.verdict for comparison in compare(results, finding.claims)}
    if "does not show" in verdicts:
        return "does not show"
    return "shows" if verdicts == {"shows"} else "cannot tell at this scale"


def controls_of(*variants: str) -> set[str]:
    """Return the untrained models on the codes of the tokenizers of variants; guidance is of the base's."""
    tokenizers = {variant.name: variant.tokenizer for variant in VARIANTS}
    return {CONTROLS[tokenizers.get(name, tokenizers[BASE])] for name in variants}


def _compare(results: Sequence[Result], claim: Claim) -> list[Comparison]:
    layout, sign = lay_out(results, claim.measure), -1 if MEASURES[claim.measure].lower_is_better else 1
    comparisons = []
    for worse in claim.than:
        difference = layout.difference(claim.better, worse)
        ends = sorted((sign * difference.low, sign * difference.high))
        gain = Interval(sign * difference.value, *ends)
        means = (layout.mean(claim.better), layout.mean(worse))
        is_sound = claim.measure not in OF_SAMPLES or max(means) < _nearest_noise(results, claim.better, worse)
        comparisons.append(Comparison(claim.measure, claim.better, worse, means, gain, is_sound))
    return comparisons


def _nearest_noise(results: Sequence[Result], *variants: str) -> float:
    """Return the smallest distance of the untrained models that variants compare with."""
    distance = lay_out(results, "fd")
    return min(distance.mean(control) for control in controls_of(*variants))

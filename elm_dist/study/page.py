"""The page of a study, made of its numbers and facts alone: the same numbers give the same page.

Knows nothing of where numbers come from.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from elm_dist.study.claims import FINDINGS, Comparison, Finding, compare, controls_of, judge
from elm_dist.study.results import MEASURES, Result, lay_out
from elm_dist.study.variants import VARIANTS

OF_MODELS = ("bits", "masked_bits", "fd")


def render_page(results: Sequence[Result], facts: dict[str, Any]) -> str:
    """Return the page in Markdown; `facts` are those of `study.json`."""
    parts = (_opening(facts), _answers(results), _details(results), _models(results, facts), _closing(facts))
    return "\n".join(line for part in parts for line in part)


def _opening(facts: dict[str, Any]) -> Iterator[str]:
    sizes = facts["parameters"].values()
    yield f"""# The paper's findings, at a scale of minutes

`elm study` repeats the comparisons of the paper on {facts["train_images"]:,} images of {facts["dataset"]}, with
models of {min(sizes):,} to {max(sizes):,} parameters, each trained for
{facts["steps"]:,} steps of {facts["batch"]} images. It asks of each finding whether it shows at this scale already.
It does not reproduce the paper's figures, which took models a thousand times larger and weeks of GPUs.

```
{facts["command"]}
```

All {facts["jobs"]} jobs, of one thread each, took {facts["cpu_hours"]:.2f} hours of CPU time on
{facts["machine"]}, without what jobs had done before they were stopped. A study that is stopped goes on when it is
started again.
That command wrote this page and everything beside it, the verdicts too. Numbers: [results.csv](results.csv), the
commands of all jobs: [commands.txt](commands.txt), settings: [study.json](study.json).
"""


def _answers(results: Sequence[Result]) -> Iterator[str]:
    yield "## Answers\n"
    yield from _table(
        ("finding", "in the paper", "here"),
        ((f"[{finding.title}](#{_anchor(finding)})", finding.paper, _answer(results, finding)) for finding in FINDINGS),
    )
    yield """
*Shows*: every comparison has its 95 % interval on the finding's side of zero. *Does not show*: one of them has it on
the other side. *Cannot tell*: neither; a difference is smaller than what another seed changes, or its measure does not
tell good from bad. Each interval stands for itself: of 20 comparisons without any difference, one would be expected to
leave zero out.
"""
    yield from _warnings(results)


def _answer(results: Sequence[Result], finding: Finding) -> str:
    """Return the verdict, and where it is open how much of the finding shows."""
    verdict, comparisons = judge(results, finding), compare(results, finding.claims)
    shown = sum(one.verdict == "shows" for one in comparisons)
    part = f", {shown} of {len(comparisons)} comparisons show" if verdict.startswith("cannot tell") and shown else ""
    return f"**{verdict}**{part}"


def _warnings(results: Sequence[Result]) -> Iterator[str]:
    claims = [claim for finding in FINDINGS for claim in (*finding.claims, *finding.beside)]
    distance = lay_out(results, "fd")
    for one in compare(results, claims):
        if one.is_sound:
            continue
        control = min(controls_of(one.better, one.worse), key=distance.mean)
        yield f"""**The distance of samples cannot compare {one.better} with {one.worse}.** The model `{control}` knows
nothing and its [pictures](#all-models) are noise, yet its distance is {distance.mean(control):.0f}, smaller than the
{max(one.means):.0f} of a model that has learned. So the verdict is *cannot tell*, on whichever side the interval lies.
This rule, that a distance must put models before untrained ones on the codes of the same tokenizers, was made after a
first and shorter study had shown the need of it, and before this one.
"""


def _details(results: Sequence[Result]) -> Iterator[str]:
    for finding in FINDINGS:
        yield f"## {finding.title}\n"
        yield f"Paper: {finding.paper}. Here: {finding.here}.\n"
        claimed = [(*_cells(one), one.verdict) for one in compare(results, finding.claims)]
        beside = [(*_cells(one), f"{one.verdict}, not claimed") for one in compare(results, finding.beside)]
        headings = ("measure", "claimed to be better", "than", "better by (95 % interval)", "verdict")
        yield from _table(headings, [*claimed, *beside])
        yield ""
        for figure in finding.figures:
            yield f"![{figure}]({figure}.svg)\n"
        unclaimed = " Rows that the paper does not claim decide nothing." if beside else ""
        yield f"Verdict: **{judge(results, finding)}**.{unclaimed}\n"


def _cells(comparison: Comparison) -> tuple[str, ...]:
    measure = MEASURES[comparison.measure]
    first, second = (f"{mean:{measure.form}}" for mean in comparison.means)
    gain, low, high = (f"{value:+{measure.form}}" for value in comparison.gain)
    return (
        f"{measure.label}, {'lower' if measure.lower_is_better else 'higher'} is better",
        f"{comparison.better}: {first}",
        f"{comparison.worse}: {second}",
        f"{gain} ({low} to {high})",
    )


def _models(results: Sequence[Result], facts: dict[str, Any]) -> Iterator[str]:
    yield "## All models\n"
    layouts = {measure: _values(results, measure) for measure in OF_MODELS}
    labels = [MEASURES[measure].label for measure in OF_MODELS]
    yield from _table(
        ("model", "differs from the base in", "codes", "parameters", *labels),
        (
            (
                variant.name,
                ", ".join(f"`{setting}`" for setting in variant.settings),
                variant.codes,
                f"{facts['parameters'][variant.name]:,}",
                *(_cell(layouts[measure].get(variant.name, []), measure) for measure in OF_MODELS),
            )
            for variant in VARIANTS
        ),
    )
    bits, distance = lay_out(results, "bits"), lay_out(results, "fd")
    yield f"""
Means over seeds, and their range. Losses are those of the averaged weights on the likeliest codes of all validation
images. Three of them do not compare with the others: the deterministic model was trained on such codes and not on
draws, those of the VQGAN hold other information, and the masked model's are of hidden codes alone. Another seed changes
the loss by a standard deviation of {bits.deviation:.4f} bits and the distance by {distance.deviation:.1f}, without what
a seed does to all models alike ({bits.freedom} and {distance.freedom} degrees of freedom).

![distance](fd.svg)

![loss](bits.svg)

The first sample of each class, of the first seed:

![samples](samples.png)
"""


def _closing(facts: dict[str, Any]) -> Iterator[str]:
    yield f"""## How it is measured

- Every model sees the same images, in the order that its seed gives. The base has three seeds, untrained models
  one, the others two.
- {facts["samples"]:,} samples of each model, as many of each class, drawn with the same random numbers and with
  {facts["guidance"]} guidance. The distance is the Frechet distance of MobileNetV2's features to
  {facts["validation_images"]:,} held-out images. It is no FID, whose features are Inception's; and with so few samples
  it is too large, by about as much for all.
- Intervals: the values of a measure are laid out by variant and seed. What neither explains is noise; its size is
  estimated from all variants together, and Student's t makes intervals of it. Differences compare equal seeds, so they
  are not always those of the means, as the base has one seed more. Tokenizers are laid out by variant
  alone: one seed has nothing in common between two architectures.
- Both tokenizers were trained for {facts["tokenizer_steps"]:,} steps, with two seeds each. Models learn the codes of
  the first: what another tokenizer would change is in no interval of samples.
- Everything else is decided by `{facts["config"]}` and `elm_dist/study/variants.py`.
"""


def _values(results: Sequence[Result], measure: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for result in results:
        if result.measure == measure:
            found.setdefault(result.variant, []).append(result.value)
    return found


def _cell(values: Sequence[float], measure: str) -> str:
    if not values:
        return ""
    form = MEASURES[measure].form
    return f"{sum(values) / len(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (headings, ["---"] * len(headings), *rows):
        yield f"| {' | '.join(row)} |"


def _anchor(finding: Finding) -> str:
    """Return what GitHub makes of a heading."""
    return "".join(letter for letter in finding.title.lower().replace(" ", "-") if letter.isalnum() or letter == "-")

"""The parts of a run's page as HTML: its figures, film of samples, history, plan, findings, settings. Reads no file."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import yaml

from elm_dist.analysis import page
from elm_dist.analysis.page import Fact
from elm_dist.analysis.run_charts import draw_timeline
from elm_dist.analysis.run_findings import Found
from elm_dist.analysis.run_pictures import Drawn, Picture
from elm_dist.analysis.run_plan import Comparison, Planned, compare
from elm_dist.analysis.run_record import RunRecord, duration, moment
from elm_dist.model.cost import count_parameters, training_flops_per_image
from elm_dist.monitoring import metrics as names
from elm_dist.monitoring.goodput import list_faults

STYLE = """
.runs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 1rem 2rem }
.run { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 1rem 2rem;
  align-content: start }
.run .facts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 1fr)) }
.state { font-weight: 600 }
.bar { display: flex; height: .7rem; border-radius: .35rem; overflow: hidden; background: var(--line); margin: .4rem 0 }
.bar i { display: block; background: var(--strong) }
.film { position: relative; display: flex; flex-wrap: wrap; gap: .4rem; align-content: start; margin: 1rem 0 }
.film input { position: absolute; opacity: 0 }
.film label { border: 1px solid var(--line); border-radius: 1rem; padding: .1rem .7rem; font-size: .8rem;
  cursor: pointer }
.film figure { order: -1; flex-basis: 100%; display: none }
.film img, .drawn img { width: 100%; border-radius: 6px }
.drawn { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 0 2rem }
.film input:checked + label { background: var(--strong); border-color: var(--strong); color: var(--page) }
.film input:focus-visible + label { outline: 2px solid var(--ink) }
.film input:checked + label + figure { display: block }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 1rem 1.5rem }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .4em }
.legend span, .differences span { margin-right: 1.4rem; white-space: normal }
.differences dt { color: var(--soft); margin-top: .6rem }
.differences dd { margin: 0 }
.differences b { margin-left: .5rem }
.planned { background: var(--soft) !important; opacity: .5 }
.plan .facts, .drawn .facts { margin-top: 0 }
.plan { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 0 2rem }
.folds { columns: 20rem; column-gap: 2rem }
details { break-inside: avoid; border-bottom: 1px solid var(--line); padding: .4rem 0 }
summary { cursor: pointer }
pre { white-space: pre-wrap; font-size: .8rem; line-height: 1.45; margin: .5rem 0 }
.finding { margin-bottom: 2rem; max-width: 900px }
.panned { overflow-x: auto } /* a figure made for a wide page is moved under the finger, and the page stays */
.panned .plot { min-width: 38rem; max-width: none }
ul { padding-left: 1.2rem; margin: .5rem 0 }
ul.legend { list-style: none; padding: 0 }
@media (prefers-color-scheme: dark) { .swatch, .bar i[style*=background] { filter: invert(.91) hue-rotate(180deg) } }
"""

STATES = {
    "finished": "Finished",
    "stopped": "Stopped on request",
    "failed": "Ended by a fault",
    "running": "Running",
    "silent": "Without a sign of life",
    "not started": "Not started",
}
ACCOUNT = (  # of a run's time: the part, its name, its colour
    ("useful", "steps that count", "#3b6fb6"),
    ("restart", "restarts", "#d9822b"),
    ("replay", "steps done again", "#c0504d"),
    ("save", "saves", "#9b5fb5"),
    ("data_wait", "waiting for data", "#8a8f98"),
)
MANY_FAULTS = 20  # are too many to read
LARGE = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def progress(record: RunRecord) -> str:
    """Return the state of a run, and how far it is."""
    total = record.config.schedule.total_steps
    share = 100 * min(record.step / total, 1)
    since = f", {moment(record.events[-1].time)}" if record.events else ""
    return (
        f'<p><span class="state">{STATES[record.state]}</span> at step {record.step:,} of {total:,}{since}</p>'
        f'<div class="bar"><i style="width: {share:.1f}%"></i></div>'
    )


def key_facts(record: RunRecord) -> list[Fact]:
    """Return the figures that matter most, as far as there are any."""
    model, data = record.config.model, record.data
    parameters = count_parameters(model, record.config.tokenizer.grid)
    shape = f"{model.num_layers} layers of {model.hidden_size}, {model.subtokens}-{model.subtoken_bits} sub-tokens"
    facts = []
    train, validation = record.last(names.BITS_PER_CODE_BIT), record.last(names.VALIDATION_BITS_PER_CODE_BIT)
    if validation is not None:
        facts.append(
            Fact("Bits per code bit", f"{validation:.4f}", f"validation; training {train or 0:.4f}, 1 at the start")
        )
    elif train is not None:
        facts.append(Fact("Bits per code bit", f"{train:.4f}", "training; 1 at the start"))
    facts.append(Fact("Parameters", _large(parameters), shape))
    if (speed := record.median(names.IMAGES_PER_SECOND)) is not None:
        seen = record.last(names.SAMPLES_SEEN) or 0
        facts.append(Fact("Images per second", f"{speed:,.4g}", f"median; {seen:,.0f} images seen"))
    if record.events:
        account = record.goodput
        facts.append(
            Fact("Goodput", f"{account.percent:.1f} %", f"of {duration(account.elapsed)} went into steps that count")
        )
    if record.environment:
        layout = str(record.environment.get("layout", "")).partition(" = ")[2]
        on = f"{record.config.parallel.precision} on {record.device.partition(':')[0]}"
        facts.append(Fact("Processes", f"{record.processes}", f"{layout}; {on}"))
    if data is not None:
        facts.append(
            Fact(
                "Training images",
                f"{data.samples('train'):,}",
                f"{len(data.classes):,} classes, in {record.config.data.shards}",
            )
        )
    return facts


def film(pictures: Sequence[Picture], name: str, classes: Sequence[str]) -> str:
    """Return pictures of which one is shown, the last at first, and a button for each; `name` is the film's own."""
    frames = []
    for number, picture in enumerate(pictures):
        place, checked = f"{name}-{number}", " checked" if number == len(pictures) - 1 else ""
        frames.append(
            f'<input type="radio" name="{name}" id="{place}"{checked}><label for="{place}">{escape(picture.caption)}'
            f"</label><figure>{_image(picture, 'samples')}</figure>"
        )
    shown = f'<p class="muted">Row by row: {escape(", ".join(classes))}</p>' if classes else ""
    return f'<div><div class="film">{"".join(frames)}</div>{shown}</div>' if frames else ""


def sampled_classes(record: RunRecord) -> list[str]:
    """Return the names of what the film shows; none where the shards that have them are elsewhere."""
    classes = record.data.classes if record.data else ()
    return [classes[label] for label in record.config.monitoring.sample_classes if label < len(classes)]


def drawn_later(drawn: Sequence[Drawn]) -> str:
    """Return grids of `elm sample`, what they were drawn with, and their scores."""
    parts = []
    for picture, settings, scores in drawn:
        scale, step = settings.get("sampling.cfg_scale"), settings.get("step")
        said = [
            picture.caption,
            f"step {step:,}" if isinstance(step, int) else "",
            f"guidance {scale}" if scale else "",
        ]
        caption = escape(", ".join(filter(None, said)))
        cards = page.facts(Fact(name.replace("_", " "), f"{value:.4g}", "") for name, value in scores.items())
        figure = f"<figure>{_image(picture, 'samples')}<figcaption>{caption}</figcaption></figure>"
        parts.append(f'<div class="drawn">{figure}{cards if scores else ""}</div>')
    return "".join(parts)


def _image(picture: Picture, kind: str) -> str:
    small = ' class="enlarged"' if picture.is_small else ""
    return f'<img{small} alt="{kind} of {escape(picture.caption)}" src="{picture.source}">'


def history(record: RunRecord) -> str:
    """Return when which step was done, where the time went, and what failed."""
    if not record.events:
        return ""
    description, svg = draw_timeline(record.events, record.breaks)
    account = record.goodput
    whole = account.elapsed or 1
    shares = [(name, colour, 100 * getattr(account, part) / whole) for part, name, colour in ACCOUNT]
    bars = "".join(f'<i style="width: {share:.2f}%; background: {colour}"></i>' for _, colour, share in shares)
    legend = "".join(
        f'<li><i class="swatch" style="background: {colour}"></i>{share:.1f} % {name}</li>'
        for name, colour, share in shares
    )
    starts = "one start" if account.starts == 1 else f"{account.starts} starts"
    faults = list_faults(record.events)
    said = "".join(f"<li>{escape(fault)}</li>" for fault in faults[-MANY_FAULTS:])
    heading = (
        f"<p>{len(faults)} {'fault' if len(faults) == 1 else 'faults'}, the newest last:</p>"
        if faults
        else "<p>No fault.</p>"
    )
    return (
        f'<div class="plots"><figure>{page.plot(svg, description)}</figure><div>'
        f"<p>{account.percent:.1f} % of {duration(account.elapsed)} in {starts} went into steps that count.</p>"
        f'<div class="bar">{bars}</div><ul class="legend">{legend}</ul></div>'
        f"<div>{heading}<ul>{said}</ul></div></div>"
    )


def plan(record: RunRecord, planned: Planned | None) -> str:
    """Return bars of what was planned and measured, and in a sentence what cannot be compared."""
    per_image = training_flops_per_image(record.config.model, record.config.tokenizer.grid)
    speed = record.median(names.IMAGES_PER_SECOND)
    parameters = count_parameters(record.config.model, record.config.tokenizer.grid)
    facts = [
        Fact("Parameters", f"{parameters:,}", "of the whole model"),
        Fact("Work of an image", f"{_large(per_image)}FLOP", "forward and backward"),
    ]
    if speed is not None:
        facts.append(Fact("Work done", f"{_large(per_image * speed)}FLOP/s", f"at {speed:,.4g} images per second"))
    bars = "".join(map(_bars, compare(record, planned)))
    remark = f'<p class="muted">{escape(_plan_remark(record, planned))}</p>'
    return f'<div class="plan">{page.facts(facts)}<div>{bars}{remark}</div></div>'


def _plan_remark(record: RunRecord, planned: Planned | None) -> str:
    if planned:
        return f"Planned by elm plan for {planned.machines}; measured: medians of the reports, and the most memory."
    if not record.environment:
        return "It did not start yet, so there is nothing to compare with a plan."
    if record.device.startswith("cpu"):
        said = "It ran on CPUs, and plans are of GPUs: speed and memory have nothing to be compared with."
        has_bubble = record.config.parallel.pipeline_stages > 1
        return f"{said} The bubble follows from the schedule alone." if has_bubble else said
    return "Give `elm report` the GPU's name with --gpu to see here what `elm plan` says of it."


def _bars(comparison: Comparison) -> str:
    name, planned, measured, unit = comparison
    most = max(planned, measured) or 1
    lines = (("planned", planned, ' class="planned"'), ("measured", measured, ""))
    bars = "".join(
        f"<small>{side} {value:,.4g}{unit}</small>"
        f'<div class="bar"><i{kind} style="width: {100 * value / most:.1f}%"></i></div>'
        for side, value, kind in lines
    )
    return f"<div><b>{name}</b><br>{bars}</div>"


def findings(found: Sequence[Found]) -> str:
    """Return each analysis: its figure, the numbers that answer its question, and its settings, folded."""
    return "".join(
        f'<div class="finding"><h3>{escape(title)}</h3><div class="panned">{page.plot(figure, title)}</div>'
        f"{page.table(_words(summary))}"
        f"<details><summary>What was measured</summary>{page.table(_words(settings))}</details></div>"
        for title, summary, settings, figure in found
    )


def _words(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name.replace("_", " "): f"{value:.4g}" if isinstance(value, float) else str(value)
        for name, value in values.items()
    }


def configuration(record: RunRecord) -> str:
    """Return all settings, folded by section."""
    return _folded(record.config.model_dump(mode="json"))


def environment(record: RunRecord) -> str:
    """Return on what the run was started last; nothing before that."""
    if not record.environment:
        return ""
    return _folded({"machine and versions": record.environment})


def _folded(sections: Mapping[str, Mapping[str, Any]]) -> str:
    texts = ((name, yaml.safe_dump(dict(values), sort_keys=False)) for name, values in sections.items())
    folds = (f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>" for name, text in texts)
    return f'<div class="folds">{"".join(folds)}</div>'


def _large(number: float) -> str:
    """Return with a letter for its thousands, as in "1.21 M"."""
    size, letter = next((pair for pair in LARGE if number >= pair[0]), (1, ""))
    return f"{number / size:.3g} {letter}"

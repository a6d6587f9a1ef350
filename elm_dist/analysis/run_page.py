"""The page behind `elm report`: one run to look at, or several side by side. Lays out what its neighbours found."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from elm_dist.analysis import page, run_parts
from elm_dist.analysis.figures import SERIES
from elm_dist.analysis.run_charts import draw_curves
from elm_dist.analysis.run_findings import ANALYSIS, Found, read_findings, tokenizer_facts
from elm_dist.analysis.run_parts import STYLE
from elm_dist.analysis.run_pictures import pictures_drawn_later, pictures_over_time
from elm_dist.analysis.run_plan import Planned
from elm_dist.analysis.run_record import RunRecord, moment, settings_that_differ
from elm_dist.errors import ElmError
from elm_dist.files import replace_text


def write_page(
    records: Sequence[RunRecord], plans: Mapping[str, Planned], findings: Sequence[Found], out: Path
) -> None:
    """Write the page on runs; `plans` go by the names of the runs, `findings` belong to none of them.

    Raises ElmError where `out` cannot be written.
    """
    text = render_runs(records, plans, findings)
    try:
        if out.is_dir():
            raise IsADirectoryError("it is a folder")
        replace_text(out, text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ElmError(f"{out}: the page cannot be written ({reason}); name another file with --out") from None


def render_runs(records: Sequence[RunRecord], plans: Mapping[str, Planned], findings: Sequence[Found]) -> str:
    """Return the page as HTML."""
    sections = _Sections(records)
    parts = [
        f'<div class="runs">{"".join(_run(sections, record) for record in records)}</div>',
        _differences(sections) if len(records) > 1 else "",
        _curves(sections),
        sections.of_each(
            "Drawn by the trained model", lambda record: run_parts.drawn_later(pictures_drawn_later(record.directory))
        ),
        sections.of_each("Time, saves and faults", run_parts.history),
        sections.of_each("Plan and measurement", lambda record: run_parts.plan(record, plans.get(record.name))),
        sections.of_each("Tokenizer", lambda record: page.facts(tokenizer_facts(record))),
        sections.of_each("Analyses", lambda record: run_parts.findings(read_findings(record.directory / ANALYSIS))),
        f"<section><h2>Analyses</h2>{run_parts.findings(findings)}</section>" if findings else "",
        sections.of_each("Configuration", run_parts.configuration),
        sections.of_each("Environment", run_parts.environment),
    ]
    when = moment(records[0].read_at)
    if len(records) == 1:
        title, subject = records[0].name, f"{records[0].directory} as it was on {when}"
    else:
        title, subject = f"{len(records)} runs", f"{', '.join(r.name for r in records)} as they were on {when}"
    return page.render_page(title, subject, filter(None, parts), STYLE)


class _Sections:
    """What names the runs within a section: nothing for one, and a coloured name for each of several."""

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self.records = records

    def name(self, record: RunRecord) -> str:
        if len(self.records) == 1:
            return ""
        index = [each.name for each in self.records].index(record.name) % len(SERIES)
        return f'<i class="swatch" style="background: {SERIES[index]}"></i>{escape(record.name)}'

    def heading(self, record: RunRecord) -> str:
        return f"<h3>{name}</h3>" if (name := self.name(record)) else ""

    def of_each(self, heading: str, render: Callable[[RunRecord], str]) -> str:
        """Return a section with what `render` has of each run; nothing if it has nothing of any."""
        found = [f"{self.heading(record)}{part}" for record in self.records if (part := render(record))]
        return f"<section><h2>{heading}</h2>{''.join(found)}</section>" if found else ""


def _run(sections: _Sections, record: RunRecord) -> str:
    """Return what a reader wants first: how far it is, how good, and what it draws."""
    name, pictures = f"film-{sections.records.index(record)}", pictures_over_time(record.directory)
    film = run_parts.film(pictures, name, run_parts.sampled_classes(record))
    left = f"<div>{sections.heading(record)}{run_parts.progress(record)}{page.facts(run_parts.key_facts(record))}</div>"
    return f'<article class="run">{left}{film}</article>'


def _differences(sections: _Sections) -> str:
    """Return the settings that are not the same in all runs, each with the value of every run."""
    found = settings_that_differ([record.config for record in sections.records])
    rows = []
    for setting, values in found.items():
        pairs = zip(sections.records, values, strict=True)
        cells = (f"<span>{sections.name(record)}<b>{escape(str(value))}</b></span>" for record, value in pairs)
        rows.append(f"<dt>{escape(setting)}</dt><dd>{''.join(cells)}</dd>")
    text = f'<dl class="differences">{"".join(rows)}</dl>' if rows else "<p>No setting but the folder differs.</p>"
    return f"<section><h2>What differs</h2>{text}</section>"


def _curves(sections: _Sections) -> str:
    plots = draw_curves({record.name: record.curves for record in sections.records})
    if not plots:
        return "<section><h2>Curves</h2><p>No step was reported yet.</p></section>"
    names = "".join(f"<span>{sections.name(record)}</span>" for record in sections.records)
    legend = f'<p class="legend">{names}</p>' if len(sections.records) > 1 else ""
    figures = "".join(f"<figure>{page.plot(svg, description)}</figure>" for description, svg in plots)
    return f'<section><h2>Curves</h2>{legend}<div class="plots">{figures}</div></section>'

"""The skeleton that the pages of reports share: one style, one head, and the few parts that they are made of.

A page is one file that loads nothing and runs no script; it fits a phone, and is dark where its reader likes that.
Texts go in as they are and come out escaped. Knows nothing of what is reported.
"""

import base64
from collections.abc import Iterable, Mapping
from html import escape
from typing import NamedTuple

# Whatever a page holds, a browser loads nothing for it from anywhere.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --ink: #23262b; --soft: #6b7078; --line: #e3e5e8; --page: #fff; --strong: #3b6fb6 }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 1100px;
  margin: 2rem auto 4rem; padding: 0 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .8rem }
h3 { font-size: 1rem; margin: 1.3rem 0 .5rem }
p { margin: .4rem 0 }
.muted, small, figcaption { color: var(--soft) }
figure { margin: 0 }
figcaption { font-size: .8rem }
img { display: block; max-width: 100% }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); gap: .7rem;
  align-content: start; margin: 1rem 0 }
.facts div { border: 1px solid var(--line); border-radius: 8px; padding: .6rem .9rem }
.facts b { display: block; font-size: 1.4rem; line-height: 1.3; font-weight: 600 }
.facts small { display: block; line-height: 1.35 }
.pictures { display: flex; flex-wrap: wrap; gap: .8rem }
.pictures figure { max-width: 100% }
.pictures img { width: 100% }
.enlarged { image-rendering: pixelated }
.plot { width: 100% }
table { border-collapse: collapse }
td { padding: .15rem 1.5rem .15rem 0; vertical-align: top }
td:first-child { color: var(--soft); min-width: min(11rem, 36vw) }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa0a8; --line: #34383e; --page: #171717; --strong: #7aa7e6 }
  .plot { filter: invert(.91) hue-rotate(180deg) } /* white becomes the page's colour, and hues stay */
  .plot.pictured { filter: brightness(.9) } /* photographs would be negatives */
}
"""


class Fact(NamedTuple):
    """One figure of a report, written out."""

    name: str
    value: str
    meaning: str


def render_page(title: str, subject: str, parts: Iterable[str], style: str = "") -> str:
    """Return the page as HTML: `parts`, which are HTML, under its title; `style` is laid over that of all pages."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)}: {escape(subject)}</title><style>{STYLE}{style}</style>"
    )
    header = f'<header><h1>{escape(title)}</h1><p class="muted">{escape(subject)}</p></header>'
    body = "\n".join([header, *parts])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def facts(figures: Iterable[Fact]) -> str:
    """Return a card for each figure."""
    cards = (tuple(map(escape, figure)) for figure in figures)
    return (
        '<div class="facts">'
        + "".join(f"<div>{name}<b>{value}</b><small>{meaning}</small></div>" for name, value, meaning in cards)
        + "</div>"
    )


def table(rows: Mapping[str, object]) -> str:
    cells = (f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in rows.items())
    return f"<table>{''.join(cells)}</table>"


def plot(svg: str, description: str) -> str:
    """Return a figure as an image, which keeps the ids of several figures apart and cannot run a script."""
    kind = "plot pictured" if "<image" in svg else "plot"
    return f'<img class="{kind}" alt="{escape(description)}" src="{inline("svg+xml", svg.encode())}">'


def inline(kind: str, data: bytes) -> str:
    """Return the address of an image that lies in the page itself."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

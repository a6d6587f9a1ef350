"""A tokenizer's report as one page with its plots and pictures inside the file. Lays out and measures nothing."""

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, NamedTuple

from PIL import Image

from elm_dist.analysis.tokenizer_measures import Example

PAIR_PIXELS = 250  # an image and its reconstruction are at least so wide together: four pairs in a row

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #23262b; max-width: 1050px; margin: 2.5rem auto; padding: 0 1.5rem }
h1 { font-size: 1.6rem; margin: 0 }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .8rem }
.muted, small, figcaption { color: #6b7078 }
.findings, .pictures { display: flex; flex-wrap: wrap; gap: .8rem }
.findings { margin: 1.5rem 0 }
.findings div { flex: 1 1 210px; border: 1px solid #e3e5e8; border-radius: 8px; padding: .7rem 1rem }
.findings b { display: block; font-size: 1.5rem; font-weight: 600 }
.findings small { display: block; line-height: 1.35 }
.pictures figure { margin: 0; max-width: 100% }
.pictures img { width: 100%; display: block }
.pictures .enlarged { image-rendering: pixelated }
figcaption { font-size: .8rem }
.plot { width: 100% }
td { padding: .1rem 1.5rem .1rem 0; vertical-align: top; overflow-wrap: anywhere }
"""


class Finding(NamedTuple):
    """One number of the report, written out."""

    name: str
    value: str
    meaning: str


def render_page(
    subject: str,
    findings: Iterable[Finding],
    pictures: Mapping[str, Iterable[Example]],
    plots: Mapping[str, str],
    settings: Mapping[str, Any],
) -> str:
    """Return the page as HTML; `pictures` and `plots` (SVG) go by their headings."""
    parts = [f'<h1>Tokenizer report</h1><p class="muted">{escape(subject)}</p>']
    parts.append(f'<div class="findings">{"".join(map(_finding, findings))}</div>')
    for heading, examples in pictures.items():
        parts.append(f"<h2>{escape(heading)}</h2>")
        parts.append(f'<div class="pictures">{"".join(map(_picture, examples))}</div>')
    for heading, svg in plots.items():
        source = _inline("svg+xml", svg.encode())
        parts.append(f'<h2>{escape(heading)}</h2><img class="plot" alt="{escape(heading)}" src="{source}">')
    rows = (f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in settings.items())
    parts.append(f"<h2>What was measured</h2><table>{''.join(rows)}</table>")
    head = f'<meta charset="utf-8"><title>Tokenizer report: {escape(subject)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _finding(finding: Finding) -> str:
    name, value, meaning = map(escape, finding)
    return f"<div>{name}<b>{value}</b><small>{meaning}</small></div>"


def _picture(example: Example) -> str:
    """Return an image and its reconstruction, side by side."""
    size = len(example.image)
    pair = Image.new("RGB", (2 * size, size))
    pair.paste(Image.fromarray(example.image), (0, 0))
    pair.paste(Image.fromarray(example.reconstruction), (size, 0))
    file = io.BytesIO()
    pair.save(file, format="PNG")
    source, caption = _inline("png", file.getvalue()), f"{example.psnr_db:.1f} dB"
    kind = ' class="enlarged"' if pair.width < PAIR_PIXELS else ""
    picture = f'<img{kind} alt="{caption}" src="{source}"><figcaption>{caption}</figcaption>'
    return f'<figure style="width: {max(pair.width, PAIR_PIXELS)}px">{picture}</figure>'


def _inline(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

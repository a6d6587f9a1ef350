"""A tokenizer's report as one page with its plots and pictures inside the file. Lays out and measures nothing."""

import io
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from PIL import Image

from elm_dist.analysis import page
from elm_dist.analysis.tokenizer_measures import Example

PAIR_PIXELS = 250  # an image and its reconstruction are at least so wide together: four pairs in a row


def render_tokenizer_page(
    subject: str,
    facts: Iterable[page.Fact],
    pictures: Mapping[str, Iterable[Example]],
    plots: Mapping[str, str],
    settings: Mapping[str, Any],
) -> str:
    """Return the page as HTML; `pictures` and `plots` (SVG) go by their headings."""
    parts = [page.facts(facts)]
    for heading, examples in pictures.items():
        parts.append(f"<h2>{escape(heading)}</h2>")
        parts.append(f'<div class="pictures">{"".join(map(_picture, examples))}</div>')
    for heading, svg in plots.items():
        parts.append(f"<h2>{escape(heading)}</h2>{page.plot(svg, heading)}")
    parts.append(f"<h2>What was measured</h2>{page.table(settings)}")
    return page.render_page("Tokenizer report", subject, parts)


def _picture(example: Example) -> str:
    """Return an image and its reconstruction, side by side."""
    size = len(example.image)
    pair = Image.new("RGB", (2 * size, size))
    pair.paste(Image.fromarray(example.image), (0, 0))
    pair.paste(Image.fromarray(example.reconstruction), (size, 0))
    file = io.BytesIO()
    pair.save(file, format="PNG")
    source, caption = page.inline("png", file.getvalue()), f"{example.psnr_db:.1f} dB"
    kind = ' class="enlarged"' if pair.width < PAIR_PIXELS else ""
    picture = f'<img{kind} alt="{caption}" src="{source}"><figcaption>{caption}</figcaption>'
    return f'<figure style="width: {max(pair.width, PAIR_PIXELS)}px">{picture}</figure>'

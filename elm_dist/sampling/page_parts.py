"""What the page shows of pictures, as HTML: a grid of them, how far they are, and what was wrong with a wish.

Pictures stand in the page itself, as PNGs in base64: there are no files to serve, and to clean up. Knows nothing of
gradio.
"""

import base64
import html
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elm_dist.sampling.studio import Drawing
from elm_dist.sampling.watching import Frame

WIDTH = 128  # pixels on the page of a picture's shorter side, or nearly so: small ones are enlarged by a whole number

EMPTY = '<div class="elm-empty">Choose what to draw and press the button: pictures appear here row by row.</div>'

CSS = """
.elm-facts { color: var(--body-text-color-subdued); margin: 0 0 4px; }
.elm-empty, .elm-drawing { min-height: 420px; }
.elm-empty { display: grid; place-items: center; color: var(--body-text-color-subdued); text-align: center;
  border: 1px dashed var(--border-color-primary); border-radius: 8px; padding: 2rem; }
.elm-pictures { display: grid; gap: 16px 12px; }
.elm-pictures figure { margin: 0; }
.elm-pictures img { display: block; width: 100%; height: auto; margin: 0; border-radius: 6px;
  image-rendering: pixelated; }
.elm-pictures figcaption { margin-top: 4px; font-size: 13px; color: var(--body-text-color-subdued); text-align: center;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.elm-progress { height: 4px; margin-bottom: 16px; border-radius: 2px; background: var(--border-color-primary);
  overflow: hidden; }
.elm-progress div { height: 100%; background: var(--color-accent); transition: width 0.2s; }
.elm-finished .elm-progress { visibility: hidden; }
.elm-wrong { border-left: 4px solid #dc2626; padding: 8px 16px; white-space: pre-line; }
.elm-command textarea { font-family: var(--font-mono); font-size: 13px; }
"""


def pictures_html(frame: Frame, drawing: Drawing) -> str:
    """Return the pictures of a frame of a drawing, under a bar that says how far they are."""
    width = frame.pictures.shape[2] * max(1, WIDTH // min(frame.pictures.shape[1:3]))
    columns = f"{drawing.columns}, minmax(0, {width}px)" if drawing.columns else f"auto-fill, min(100%, {width}px)"
    figures = (_figure(*pair) for pair in zip(frame.pictures, drawing.captions, strict=True))
    state = "finished" if frame.share == 1 else "unfinished"
    return (
        f'<div class="elm-drawing elm-{state}">'
        f'<div class="elm-progress"><div style="width: {frame.share:.0%}"></div></div>'
        f'<div class="elm-pictures" style="grid-template-columns: repeat({columns})">{"".join(figures)}</div></div>'
    )


def sentence_html(sentence: str) -> str:
    """Return what is to be said to whoever wished for something that cannot be."""
    return f'<div class="elm-wrong">{html.escape(sentence)}</div>'


def _figure(picture: NDArray[np.uint8], caption: str) -> str:
    text = html.escape(caption)
    return f'<figure><img src="{png_address(picture)}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def png_address(picture: NDArray[np.uint8]) -> str:
    """Return a picture (height, width, 3) as an address that holds the whole of it."""
    png = io.BytesIO()
    Image.fromarray(picture).save(png, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"

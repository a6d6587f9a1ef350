"""The pictures that a run drew, made small enough to lie in a page. Knows nothing of how they were drawn."""

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from elm_dist.analysis.page import inline
from elm_dist.analysis.run_record import read_facts

log = logging.getLogger(__name__)

MOST_FRAMES = 12  # of the samples over time
MOST_PIXELS = 1100  # of a side: the page is no wider
FEW_PIXELS = 600  # across: these are enlarged, and keep their pixels
QUALITY = 85  # of WebP


class Picture(NamedTuple):
    """A picture with what to write under it; `source` is its address within the page."""

    caption: str
    source: str
    is_small: bool


class Drawn(NamedTuple):
    """What `elm sample` left in a folder of the run: its grid, how it was drawn, and how it was scored, if it was."""

    picture: Picture
    settings: Mapping[str, Any]
    scores: Mapping[str, float]


def pictures_over_time(run: Path) -> list[Picture]:
    """Return the samples that the run drew as it trained, evenly chosen where there are more than MOST_FRAMES."""
    paths = sorted((run / "samples").glob("step_*.png"))
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), MOST_FRAMES)).round().astype(int))
    return [
        picture
        for path in (paths[index] for index in chosen)
        if (picture := load_picture(path, f"step {path.stem.removeprefix('step_').lstrip('0') or '0'}"))
    ]


def pictures_drawn_later(run: Path) -> list[Drawn]:
    """Return what lies in the folders within the run's `samples`."""
    found = []
    for path in sorted((run / "samples").glob("*/grid.png")):
        if picture := load_picture(path, path.parent.name):
            scores = read_facts(path.parent / "scores.json").get("scores")
            measured = scores.items() if isinstance(scores, dict) else ()
            numbers = {name: value for name, value in measured if isinstance(value, int | float)}
            found.append(Drawn(picture, read_facts(path.parent / "sampling.json"), numbers))
    return found


def load_picture(path: Path, caption: str) -> Picture | None:
    """Return a picture in a file, scaled down where it is larger than the page; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        log.warning("%s is left out, it cannot be read: %s", path, error)
        return None
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    file = io.BytesIO()
    picture.save(file, format="WEBP", quality=QUALITY)
    return Picture(caption, inline("webp", file.getvalue()), picture.width < FEW_PIXELS)

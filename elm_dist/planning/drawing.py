"""A pipeline's timeline as a picture: a row for each stage, a box for each pass, gaps where it waits."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw

from elm_dist.errors import LayoutError
from elm_dist.files import replace_text, replacing
from elm_dist.parallel.schedule import Timeline

WIDTH, ROW, MARGIN, LABEL = 1600, 28, 12, 70  # pixels
LETTER = 7  # pixels that one takes: a box without room for its number has none
COLOURS = {"F": "#4878d0", "B": "#ee854a", "I": "#ee854a", "W": "#6acc64"}
SECOND = {"F": "#a3bdea", "B": "#f7c8ac", "I": "#f7c8ac", "W": "#b9e8b6"}  # of a stage's second part


class Box(NamedTuple):
    """One pass in pixels, with its micro-batch."""

    left: float
    top: float
    right: float
    bottom: float
    colour: str
    label: str


def draw_timeline(timeline: Timeline, path: Path) -> None:
    """Write the timeline to `path`, .svg or .png. Raises LayoutError for another ending."""
    if path.suffix not in (".svg", ".png"):
        raise LayoutError(f"{path}: a timeline is drawn as .svg or .png; give a file with one of these endings")
    boxes = list(_boxes(timeline))
    title = f"{len(timeline.stages)} stages, {timeline.makespan:.3f} s, {timeline.bubble:.1%} waiting"
    height = 2 * MARGIN + (len(timeline.stages) + 1) * ROW
    if path.suffix == ".svg":
        replace_text(path, _svg(boxes, title, len(timeline.stages), height))
    else:
        with replacing(path) as part:
            _picture(boxes, title, len(timeline.stages), height).save(part, format="PNG")


def _boxes(timeline: Timeline) -> Iterator[Box]:
    scale = (WIDTH - LABEL - MARGIN) / timeline.makespan
    for stage, spans in enumerate(timeline.stages):
        top = MARGIN + (stage + 1) * ROW
        for action, begin, end in spans:
            left, right = LABEL + begin * scale, LABEL + end * scale
            label = str(action.micro_batch)
            has_room = right - left > LETTER * (len(label) + 1)
            colours = COLOURS if action.part == spans[0].action.part else SECOND
            yield Box(left, top, right, top + ROW - 4, colours[action.kind], label if has_room else "")


def _rows(title: str, stages: int) -> Iterator[tuple[float, str]]:
    yield MARGIN, f"{title}; blue forward, orange backward, green gradients of weights, pale: a stage's second part"
    for stage in range(stages):
        yield MARGIN + (stage + 1) * ROW, f"stage {stage}"


def _svg(boxes: list[Box], title: str, stages: int, height: int) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif"'
        ' font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    lines += [f'<text x="{MARGIN}" y="{top + 16}">{escape(text)}</text>' for top, text in _rows(title, stages)]
    for left, top, right, bottom, colour, label in boxes:
        size = f'x="{left:.2f}" y="{top}" width="{right - left:.2f}" height="{bottom - top}"'
        lines.append(f'<rect {size} fill="{colour}" stroke="white" stroke-width="0.5"/>')
        if label:
            middle = (left + right) / 2
            lines.append(f'<text x="{middle:.2f}" y="{top + 16}" text-anchor="middle" font-size="11">{label}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _picture(boxes: list[Box], title: str, stages: int, height: int) -> Image.Image:
    image = Image.new("RGB", (WIDTH, height), "white")
    pen = ImageDraw.Draw(image)
    for top, text in _rows(title, stages):
        pen.text((MARGIN, top + 5), text, fill="black")
    for left, top, right, bottom, colour, label in boxes:
        pen.rectangle((left, top, max(left, right - 1), bottom), fill=colour)
        if label:
            pen.text(((left + right) / 2, top + 12), label, fill="black", anchor="mm")
    return image

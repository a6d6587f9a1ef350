"""The picture of a timeline has every pass at its time."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from elm_dist.errors import LayoutError
from elm_dist.parallel.schedule import PartCost, build_schedule, simulate
from elm_dist.planning.drawing import COLOURS, draw_timeline

SVG = "{http://www.w3.org/2000/svg}"
TIMELINE = simulate(build_schedule("zbv", 4, 8), [PartCost(1.0, 1.0, 1.0)] * 8)


def test_the_svg_has_every_pass(tmp_path: Path) -> None:
    path = tmp_path / "timeline.svg"
    draw_timeline(TIMELINE, path)
    boxes = [box for box in ElementTree.parse(path).getroot().iter(f"{SVG}rect") if box.get("x")]
    assert len(boxes) == 4 * 2 * 8 * 3  # stages, parts, micro-batches, passes
    first = [box for box in boxes if float(box.attrib["x"]) == 70]
    assert [box.attrib["fill"] for box in first] == [COLOURS["F"]]
    widths = {round(float(box.attrib["width"]), 1) for box in boxes}
    assert len(widths) == 1, "all passes take a second"
    labels = {text.text for text in ElementTree.parse(path).getroot().iter(f"{SVG}text")}
    assert {str(number) for number in range(8)} | {"stage 3"} <= labels


def test_the_png_shows_work_and_waiting(tmp_path: Path) -> None:
    path = tmp_path / "timeline.png"
    draw_timeline(TIMELINE, path)
    with Image.open(path) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
        assert image.width == 1600
        row = 12 + 4 * 28 + 2  # of the last stage, which waits first
        assert image.convert("RGB").getpixel((72, row)) == (255, 255, 255)
        assert image.convert("RGB").getpixel((72, 12 + 28 + 2)) == (0x48, 0x78, 0xD0)
    assert (0xEE, 0x85, 0x4A) in colours
    assert (0x6A, 0xCC, 0x64) in colours


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"is drawn as \.svg or \.png; give a file with one of these endings"):
        draw_timeline(TIMELINE, tmp_path / "timeline.pdf")
    assert not list(tmp_path.iterdir())

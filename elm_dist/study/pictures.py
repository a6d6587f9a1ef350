"""One picture of what the models draw: a row for each variant, a column for each class, real images first."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from elm_dist.files import replacing
from elm_dist.study.plan import StudyPlan
from elm_dist.study.variants import VARIANTS

ENLARGED = 2  # times
MARGIN, GAP = 112, 2  # pixels for names, and between images
COLOURS = 128  # of the palette, which makes the file a third as large


def draw_samples(plan: StudyPlan, out: Path) -> None:
    """Write the first sample of each class and variant as a PNG."""
    real = [sorted(folder.iterdir())[0] for folder in sorted((plan.images / "validation").iterdir())]
    rows = {"real": real} | {variant.name: _first(plan, variant.runs()[0]) for variant in VARIANTS}
    with Image.open(real[0]) as first:
        side = ENLARGED * first.width + GAP
    picture = Image.new("RGB", (MARGIN + side * len(real), side * len(rows)), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for row, (name, files) in enumerate(rows.items()):
        pen.text((4, row * side + side // 2), name, fill="black", font=font, anchor="lm")
        for column, image in enumerate(_enlarged(files)):
            picture.paste(image, (MARGIN + column * side, row * side))
    with replacing(out) as scratch:
        picture.quantize(COLOURS).save(scratch, "PNG", optimize=True)


def _first(plan: StudyPlan, run: str) -> list[Path]:
    return [sorted(folder.iterdir())[0] for folder in sorted((plan.out / "samples" / run).glob("class_*"))]


def _enlarged(files: Iterable[Path]) -> Iterable[Image.Image]:
    for file in files:
        with Image.open(file) as image:
            yield image.convert("RGB").resize(
                (ENLARGED * image.width, ENLARGED * image.height), Image.Resampling.NEAREST
            )

"""`elm edit`: a part of a picture drawn anew, or all that follows its first codes (paper, figure 7 and appendix)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.config import TokenizerConfig
from elm_dist.data.images import centre_crop, read_image
from elm_dist.errors import ConfigError
from elm_dist.files import sha256
from elm_dist.sampling.canvas import fill
from elm_dist.sampling.collect import GRID_SIDE, write_rows
from elm_dist.sampling.images import save_png
from elm_dist.sampling.job import DrawingJob
from elm_dist.sampling.painter import Painter, check_classes
from elm_dist.sampling.picture_folder import claim_painter, draw_pictures
from elm_dist.sampling.pictures import encode_picture, masked_cells, read_mask, region_mask
from elm_dist.sampling.requests import ImageRequest, list_requests

PICTURE, KEPT = "picture.png", "kept.png"
GREY = 128


def edit_run(
    job: DrawingJob,
    *,
    image: Path,
    classes: list[int],
    region: Sequence[int] | None = None,
    mask: Path | None = None,
    keep: int | None = None,
    per_class: int = 1,
) -> Path:
    """Draw a part of a picture anew, `per_class` times as each class; return the path of a grid.

    The part is one of `region` and `mask` (white), both in the file's pixels, or `keep`, how many codes in raster order
    stay. The folder gets the picture as the tokenizer sees it, what is kept of its codes, and the edits, the grid a row
    of these for each class. Raises an ElmError for a class or a part that is not allowed, a file that cannot be read,
    and what `claim_painter` raises.
    """
    config = job.load_config()
    labels = check_classes("--classes", classes, config.model.num_classes)
    picture = read_image(str(image), image)
    is_kept = _kept_cells(config.tokenizer, picture.size, region, mask, keep)
    painter = claim_painter(
        job,
        config,
        command="edit",
        classes=",".join(map(str, labels)),
        per_class=per_class,
        image_sha256=sha256(image),
        **_describe_part(region, mask, keep),
    )
    codes = encode_picture(painter, picture)
    save_png(job.out / PICTURE, np.asarray(centre_crop(picture, config.tokenizer.image_size)))
    save_png(job.out / KEPT, _show_kept(painter, codes, is_kept))
    requests = list_requests(labels, per_class)
    drawn_labels, seeds = zip(*((request.label, request.seed(job.seed)) for request in requests), strict=True)
    draw_pictures(
        painter,
        [job.out / request.path for request in requests],
        lambda part, on_progress: fill(
            painter, drawn_labels[part], seeds[part], codes, is_kept, on_progress=on_progress
        ),
        overlap=0,
        batch_size=job.batch_size,
        work="editing",
    )
    numbers, first = range(min(per_class, GRID_SIDE)), [Path(PICTURE), Path(KEPT)]
    rows = [[*first, *(ImageRequest(label, number).path for number in numbers)] for label in labels[:GRID_SIDE]]
    return write_rows(job.out, rows)


def _kept_cells(
    tokenizer: TokenizerConfig, size: tuple[int, int], region: Sequence[int] | None, mask: Path | None, keep: int | None
) -> NDArray[np.bool_]:
    """Return which cells (rows, columns) stay as they are, of a picture of `size` (width, height)."""
    if [region, mask, keep].count(None) != 2:
        raise ConfigError("give one of --region, --mask and --keep: what is drawn anew, or how many codes are kept")
    if keep is not None:
        if not 0 <= keep < tokenizer.positions:
            raise ConfigError(
                f"--keep: {keep} is not allowed; an image has {tokenizer.positions} codes: keep 0 to "
                f"{tokenizer.positions - 1} of them"
            )
        return (np.arange(tokenizer.positions) < keep).reshape(tokenizer.grid)
    if region is not None:
        return ~masked_cells(tokenizer, region_mask(size, region))
    assert mask is not None
    return ~masked_cells(tokenizer, read_mask(mask, size))


def _describe_part(region: Sequence[int] | None, mask: Path | None, keep: int | None) -> dict[str, str | int | None]:
    """Return what decides which cells stay, to be written down."""
    return {
        "region": None if region is None else ",".join(map(str, region)),
        "mask_sha256": None if mask is None else sha256(mask),
        "keep": keep,
    }


def _show_kept(painter: Painter, codes: Tensor, is_kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the picture (H, W, 3) of the codes (1, rows, columns, subtokens), grey where they are not kept."""
    cell = painter.config.tokenizer.downsampling
    picture = painter.decode(codes.flatten(1, 2))[0]
    is_visible = is_kept.repeat(cell, axis=0).repeat(cell, axis=1)
    return np.where(is_visible[..., None], picture, np.uint8(GREY))

"""`elm interpolate`: from one class to another, by mixtures of their embeddings (paper, appendix)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from elm_dist.errors import ConfigError
from elm_dist.sampling.canvas import CanvasSize, expand
from elm_dist.sampling.collect import GRID_SIDE, write_rows
from elm_dist.sampling.job import DrawingJob
from elm_dist.sampling.painter import check_classes
from elm_dist.sampling.picture_folder import claim_painter, draw_pictures
from elm_dist.sampling.requests import ImageRequest


def interpolate_run(
    job: DrawingJob,
    *,
    between: tuple[int, int],
    steps: int = 5,
    rows: int = 1,
) -> Path:
    """Draw `rows` rows of images from the first class to the second into its folder; return the path of a grid.

    A row has one seed, that of `elm sample` for its number of the first class, and `steps` mixtures between its plain
    ends: row_00000/0.3000.png has three tenths of the second class. Raises an ElmError for classes that are not
    there or the same, and what `claim_painter` raises.
    """
    config = job.load_config()
    labels = check_classes("--between", between, config.model.num_classes)
    if len(labels) != 2:
        raise ConfigError(f"--between: give two different classes, as in 207,360, and not {labels[0]} twice")
    shares = mixture_shares(steps)
    chosen = ",".join(map(str, labels))
    painter = claim_painter(job, config, command="interpolate", between=chosen, steps=steps, rows=rows)
    paths = [[Path(f"row_{row:05d}") / f"{share:.4f}.png" for share in shares] for row in range(rows)]
    mixtures = class_mixtures(between, shares, config.model.num_classes).repeat(rows, 1)
    seeds = [ImageRequest(labels[0], row).seed(job.seed) for row in range(rows) for _ in shares]
    grid = config.tokenizer.grid
    draw_pictures(
        painter,
        [job.out / path for row in paths for path in row],
        lambda part, on_progress: expand(
            painter, mixtures[part], seeds[part], CanvasSize(*grid, overlap=0), on_progress=on_progress
        ),
        overlap=0,
        batch_size=job.batch_size,
        work="interpolating",
    )
    return write_rows(job.out, paths[:GRID_SIDE])


def mixture_shares(steps: int) -> list[float]:
    """Return the shares of the second class, with both ends: of 5 steps the paper's 0.1, 0.3, 0.5, 0.7 and 0.9."""
    return [0.0, *((step + 0.5) / steps for step in range(steps)), 1.0]


def class_mixtures(between: tuple[int, int], shares: Sequence[float], num_classes: int) -> Tensor:
    """Return labels (shares, num_classes + 1), fp32, for `Painter.draw`: of each the share of the second class.

    Raises ConfigError for a share that is none.
    """
    if odd := [share for share in shares if not 0 <= share <= 1]:
        raise ConfigError(f"a share of a class is a number from 0 to 1, and {odd[0]:g} is none")
    mixtures = torch.zeros(len(shares), num_classes + 1)
    mixtures[:, between[1]] = torch.tensor(shares)
    mixtures[:, between[0]] = 1 - mixtures[:, between[1]]
    return mixtures

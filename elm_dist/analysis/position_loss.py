"""Where a model's loss is: by cell of the grid and by head, in bits, over the whole validation split of a run."""

import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from elm_dist.analysis.figures import BLUE, ORANGE, explain_line
from elm_dist.analysis.findings import Findings, Row
from elm_dist.analysis.measured_run import MeasuredRun, open_run
from elm_dist.codes.packing import unpack_subtokens
from elm_dist.codes.scan import inverse, scan_order
from elm_dist.config import Grid
from elm_dist.errors import EvaluationError
from elm_dist.model.masking import split_mask

BATCH_SIZE = 32  # images


class PositionLoss(NamedTuple):
    """The mean cross-entropy of the codes of each cell; cells are numbered row by row."""

    bits: Tensor  # (cells, subtokens), fp64
    images: Tensor  # (cells,), in which the code counts: all, but of a masked model those in which it is hidden

    def mean(self) -> Tensor:
        """Return the mean over all codes that count, of each head, (subtokens,)."""
        return self.images.double() @ self.bits / self.images.sum()


def analyze_loss(run: Path, *, step: int | None = None) -> Findings:
    """Measure the averaged weights of a run; their mean loss is what `elm evaluate RUN` finds.

    Raises an ElmError for a folder that is no run, one without such a checkpoint, shards that are missing or others,
    and a validation split so small that a masked model never has to predict some cell.
    """
    opened = open_run(run, ("ema",), step=step, batch_size=BATCH_SIZE)
    config, subtoken_bits = opened.config, opened.code_shape.subtoken_bits
    loss = measure_position_loss(opened)
    grid, order = config.tokenizer.grid, scan_order(config.model.scan, config.tokenizer.grid)
    return Findings(
        name="position_loss",
        title=f"Loss of {run} at step {opened.checkpoint.step:,} on {opened.images:,} validation images",
        rows=[row for position, cell in enumerate(order.tolist()) for row in _rows(loss, position, cell, grid)],
        summary=_summarize(loss, grid, subtoken_bits),
        settings=opened.settings() | {"images": opened.images},
        draw=partial(_draw, loss.bits.sum(dim=1).view(grid), loss.mean(), subtoken_bits),
    )


def measure_position_loss(opened: MeasuredRun) -> PositionLoss:
    """Return what the averaged weights lose on the whole validation split, on the CPU."""
    model, shape, config = opened.load_model("ema"), opened.code_shape, opened.config
    sums = torch.zeros(shape.positions, shape.subtokens, dtype=torch.float64)
    images = torch.zeros(shape.positions, dtype=torch.int64)
    for rows, labels in opened.batches(opened.images, "loss"):
        codes, counts = rows, torch.ones(len(rows), shape.positions, dtype=torch.bool, device=rows.device)
        if config.model.modelling == "masked":
            codes, counts = split_mask(rows, shape)
        targets = unpack_subtokens(codes, shape)
        losses = F.cross_entropy(model((rows, labels)).float().flatten(0, 2), targets.flatten(), reduction="none")
        sums += (losses.view(targets.shape).double() * counts.unsqueeze(2)).sum(dim=0).cpu()
        images += counts.sum(dim=0).cpu()
    if not images.all():
        raise EvaluationError(
            f"{config.data.shards}: a masked model predicts what is hidden, and of {opened.images:,} validation images "
            f"none hides the code of position {int(images.argmin())}; make shards with more validation images"
        )
    bits = sums / images.unsqueeze(1) / math.log(2)
    places = torch.from_numpy(inverse(scan_order(config.model.scan, config.tokenizer.grid)))
    return PositionLoss(bits[places], images[places])


def _rows(loss: PositionLoss, position: int, cell: int, grid: Grid) -> list[Row]:
    row, column = divmod(cell, grid.columns)
    place = {"position": position, "row": row, "column": column, "images": int(loss.images[cell])}
    return [place | {"head": head, "loss_bits": bits} for head, bits in enumerate(loss.bits[cell].tolist())]


def _summarize(loss: PositionLoss, grid: Grid, subtoken_bits: int) -> dict[str, float | str]:
    """Return means over positions and heads, and what differs between them."""
    of_heads, of_cells = loss.mean(), loss.bits.sum(dim=1)
    summary: dict[str, float | str] = {
        "loss_nats": of_heads.mean().item() * math.log(2),  # what `elm evaluate` calls validation/loss
        "bits_per_code_bit": of_heads.mean().item() / subtoken_bits,
        "bits_per_code": of_heads.sum().item(),
    }
    summary |= {f"head_{head}_bits": bits for head, bits in enumerate(of_heads.tolist())}
    for name, cell in (("lowest", int(of_cells.argmin())), ("highest", int(of_cells.argmax()))):
        row, column = divmod(cell, grid.columns)
        summary[f"{name}_cell"] = f"row {row}, column {column}: {of_cells[cell]:.3f} bits a code"
    return summary


def _draw(of_cells: Tensor, of_heads: Tensor, subtoken_bits: int) -> Figure:
    """Draw what the codes of each cell (rows, columns) and the sub-tokens of each head (subtokens,) cost in bits."""
    figure = Figure(figsize=(9, 4))
    left, right = figure.subplots(1, 2)
    image = left.imshow(of_cells.numpy(), cmap="viridis", interpolation="nearest")
    left.set(title="Loss of a code", xlabel="column", ylabel="row")
    left.grid(visible=False)
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    code_bits = len(of_heads) * subtoken_bits
    figure.colorbar(image, ax=left, label=f"bits of {code_bits}", shrink=0.9).outline.set_visible(False)
    right.bar(range(len(of_heads)), of_heads.numpy(), color=BLUE)
    right.axhline(subtoken_bits, color=ORANGE)
    right.set(title="Loss of a sub-token", xlabel="head", ylabel="bits", xlim=(-0.6, len(of_heads) - 0.4))
    explain_line(right, "nothing learned")
    return figure

"""The order in which the codes of an image come: the scan patterns of the paper (section 3.3, table 2).

A pattern is a permutation of the cells, which are numbered row by row. Shards hold codes in that raster order; they are
permuted when they are read, and back before they are decoded. Knows nothing of models.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from elm_dist.config import Grid


@lru_cache(maxsize=16)
def scan_order(scan: str, grid: Grid) -> NDArray[np.int64]:
    """Return which cell (cells,) comes at each position; `scan` is a value of `model.scan`.

    A zigzag turns round at the end of each line: every second row, column or diagonal is read backwards.
    """
    cells = np.arange(grid.cells).reshape(grid)
    lines = {
        "row_raster": lambda: list(cells),
        "column_raster": lambda: list(cells.T),
        "row_zigzag": lambda: _turning(list(cells)),
        "column_zigzag": lambda: _turning(list(cells.T)),
        "diagonal_zigzag": lambda: _turning(_diagonals(cells)),
    }[scan]()
    order = np.concatenate(lines)
    order.flags.writeable = False  # it is shared
    return order


def inverse(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return at which position each cell comes."""
    return np.argsort(order)


def _turning(lines: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    return [line[::-1] if number % 2 else line for number, line in enumerate(lines)]


def _diagonals(cells: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the anti-diagonals from the upper left corner, each from its lowest cell up."""
    rows, columns = cells.shape
    flipped = cells[::-1]
    return [flipped.diagonal(offset) for offset in range(1 - rows, columns)]

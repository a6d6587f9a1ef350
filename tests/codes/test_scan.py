from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elm_dist.codes.scan import inverse, scan_order
from elm_dist.config import Grid, ModelConfig

SCANS = get_args(ModelConfig.model_fields["scan"].annotation)
grids = st.builds(Grid, st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize(
    ("scan", "expected"),
    [
        ("row_raster", [0, 1, 2, 3, 4, 5]),
        ("column_raster", [0, 3, 1, 4, 2, 5]),
        ("row_zigzag", [0, 1, 2, 5, 4, 3]),
        ("column_zigzag", [0, 3, 4, 1, 2, 5]),
        ("diagonal_zigzag", [0, 1, 3, 4, 2, 5]),
    ],
)
def test_the_patterns_on_two_rows_of_three(scan: str, expected: list[int]) -> None:
    assert scan_order(scan, Grid(2, 3)).tolist() == expected


@given(grid=grids, scan=st.sampled_from(SCANS))
def test_each_is_a_permutation_that_its_inverse_undoes(grid: Grid, scan: str) -> None:
    order = scan_order(scan, grid)
    assert sorted(order) == list(range(grid.cells))
    codes = np.random.default_rng(0).integers(0, 100, grid.cells)
    assert np.array_equal(codes[order][inverse(order)], codes)
    assert np.array_equal(codes[inverse(order)][order], codes)


@given(grid=grids, scan=st.sampled_from([scan for scan in SCANS if scan.endswith("zigzag")]))
def test_a_zigzag_never_jumps(grid: Grid, scan: str) -> None:
    rows, columns = np.divmod(scan_order(scan, grid), grid.columns)
    far = np.maximum(abs(np.diff(rows)), abs(np.diff(columns)))
    assert (far == 1).all()


@given(grid=grids)
def test_columns_of_a_grid_are_rows_of_its_transpose(grid: Grid) -> None:
    transposed = np.arange(grid.cells).reshape(grid.columns, grid.rows).T.ravel()  # of the transpose's cells, ours
    for one, other in (("row_raster", "column_raster"), ("row_zigzag", "column_zigzag")):
        there = scan_order(one, Grid(grid.columns, grid.rows))
        assert np.array_equal(transposed[scan_order(other, grid)], there)


def test_nobody_can_change_what_is_shared() -> None:
    with pytest.raises(ValueError, match="read-only"):
        scan_order("row_raster", Grid(2, 2))[0] = 1

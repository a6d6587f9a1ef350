from pathlib import Path

import numpy as np
from PIL import Image

from elm_dist.config import ImageSize
from elm_dist.sampling.images import enlarge, image_grid, save_png


def test_grid_lays_images_out_row_by_row() -> None:
    images = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (10, 20, 30)])
    grid = image_grid(images, columns=2, border=1)
    assert grid.shape == (11, 11, 3)
    assert (grid[1:5, 1:5] == 10).all()
    assert (grid[1:5, 6:10] == 20).all()
    assert (grid[6:10, 1:5] == 30).all()
    assert (grid[6:10, 6:10] == 255).all()


def test_grid_is_a_square_by_default() -> None:
    assert image_grid(np.zeros((9, 4, 4, 3), np.uint8), border=0).shape == (12, 12, 3)


def test_saved_png_reads_back(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    save_png(tmp_path / "deep" / "image.png", image)
    read = np.asarray(Image.open(tmp_path / "deep" / "image.png"))
    assert (read == image).all()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["image.png"]


def test_small_images_are_enlarged_and_large_ones_are_not() -> None:
    grid = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert (enlarge(grid, ImageSize(32, 32)) == grid.repeat(3, axis=0).repeat(3, axis=1)).all()
    assert (enlarge(grid, ImageSize(48, 200)) == grid.repeat(2, axis=0).repeat(2, axis=1)).all()
    assert (enlarge(grid, ImageSize(256, 256)) == grid).all()

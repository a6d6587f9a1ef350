import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elm_dist.sampling.collect import GRID_SIDE, wait_for_images, write_grid
from elm_dist.sampling.images import save_png
from elm_dist.sampling.requests import ImageRequest, list_requests


def paint(out: Path, requests: list[ImageRequest]) -> None:
    """Write images of 96 pixels, which a grid does not enlarge, whose red is the class and whose green the number."""
    for request in requests:
        image = np.full((96, 96, 3), (request.label, request.index, 255), dtype=np.uint8)
        save_png(out / request.path, image)


@pytest.mark.parametrize(("classes", "per_class", "rows", "columns"), [(3, 18, 3, 16), (18, 2, 16, 2), (10, 1, 3, 4)])
def test_a_grid_has_the_first_images_of_the_first_classes(
    tmp_path: Path, classes: int, per_class: int, rows: int, columns: int
) -> None:
    labels = [10 + label for label in range(classes)]
    paint(tmp_path, list_requests(labels, per_class))
    grid = np.asarray(Image.open(write_grid(tmp_path, labels, per_class)))
    assert grid.shape == (98 * rows + 2, 98 * columns + 2, 3)
    corners = grid[2::98, 2::98][:rows, :columns]
    if per_class == 1:
        assert corners[..., 0].flatten().tolist() == [*labels, 255, 255]  # the last two places stay white
    else:
        assert (corners[..., 0] == np.array(labels[:GRID_SIDE])[:, None]).all()
        assert (corners[..., 1] == np.arange(per_class)[:GRID_SIDE]).all()


def test_it_waits_for_the_images_of_other_processes(tmp_path: Path) -> None:
    requests = list_requests([0, 1], 2)
    paint(tmp_path, requests[:3])
    late = threading.Timer(0.3, paint, (tmp_path, requests[3:]))
    late.start()
    assert not (tmp_path / requests[3].path).exists()
    wait_for_images(tmp_path, requests)
    assert (tmp_path / requests[3].path).exists()
    late.join()

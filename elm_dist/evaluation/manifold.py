"""Precision and recall of features, by the spheres around each that reach its third neighbour.

Knows nothing of images and nets.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

NEIGHBOURS = 3
BLOCK = 2048  # features a side, of the distances that are in memory: 32 MB


def precision_and_recall(real: Tensor, generated: Tensor, device: torch.device) -> tuple[float, float]:
    """Return which share of the `generated` lies among the `real`, and which of the `real` among the `generated`.

    A feature lies among others if it is in the sphere of any of them, whose radius is the distance to the third nearest
    of its own kind (Kynkaanniemi et al. 2019, with ADM's 3). Both are features (n, d) of 4 images or more; distances
    are computed on `device`, a block at a time, in fp64: that of a feature to itself must not be larger than a radius.
    """
    real_radii, generated_radii = _radii(real, device), _radii(generated, device)
    real_inside = torch.zeros(len(real), dtype=torch.bool, device=device)
    generated_inside = torch.zeros(len(generated), dtype=torch.bool, device=device)
    for rows, row_features in _blocks(real, device):
        for columns, column_features in _blocks(generated, device):
            distances = _squared_distances(row_features, column_features)
            generated_inside[columns] |= (distances <= real_radii[rows, None]).any(dim=0)
            real_inside[rows] |= (distances <= generated_radii[columns]).any(dim=1)
    return generated_inside.double().mean().item(), real_inside.double().mean().item()


def _radii(features: Tensor, device: torch.device) -> Tensor:
    """Return the squared distance (n,) of each feature to its third nearest other one."""
    radii = []
    for _, row_features in _blocks(features, device):
        nearest = row_features.new_empty(len(row_features), 0)
        for _, column_features in _blocks(features, device):
            candidates = torch.cat([nearest, _squared_distances(row_features, column_features)], dim=1)
            count = min(NEIGHBOURS + 1, candidates.shape[1])  # with itself
            nearest = candidates.topk(count, dim=1, largest=False).values
        radii.append(nearest[:, NEIGHBOURS])
    return torch.cat(radii)


def _blocks(features: Tensor, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, features[rows].to(device, torch.float64)


def _squared_distances(rows: Tensor, columns: Tensor) -> Tensor:
    lengths = rows.square().sum(dim=1)[:, None] + columns.square().sum(dim=1)
    return (lengths - 2 * rows @ columns.T).clamp_min(0)

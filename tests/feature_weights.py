"""Files of weights for the nets that features come from: the published ones are no part of the repository.

What is drawn depends on the names of the tensors alone, so that another implementation can be given the same.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elm_dist.evaluation import features
from elm_dist.evaluation.inception import build_inception
from elm_dist.files import sha256
from elm_dist.randomness import generator
from elm_dist.tokenizers import mobilenet


def draw_weights(net: nn.Module) -> dict[str, Tensor]:
    """Return weights that keep the activations of `net` at about the same size in all layers."""
    return {name: torch.from_numpy(_draw(name, tensor.shape)) for name, tensor in net.state_dict().items()}


def write_inception(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write drawn weights and a classifier's bias, as the published file has it, and have them taken for those."""
    torch.save(draw_weights(build_inception()) | {"fc.bias": torch.zeros(1008)}, path)
    monkeypatch.setattr(features, "INCEPTION_SHA256", sha256(path))
    return path


def install_mobilenet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a package with drawn weights importable, have them taken for the published ones, and return their file."""
    path = folder / mobilenet.MOBILENET_PACKAGE / "weights" / mobilenet.MOBILENET_FILE
    path.parent.mkdir(parents=True)
    (folder / mobilenet.MOBILENET_PACKAGE / "__init__.py").touch()
    weights = {f"features.{name}": tensor for name, tensor in draw_weights(mobilenet.build_mobilenet()).items()}
    torch.save(weights | {"classifier.1.weight": torch.zeros(1000, 1280)}, path)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(features, "MOBILENET_SHA256", sha256(path))
    return path


def _draw(name: str, shape: torch.Size) -> np.ndarray:
    numbers = generator(0, name)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if len(shape) == 4:
        return (numbers.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype(np.float32)
    if len(shape) == 2:
        return (numbers.standard_normal(shape) / shape[1] ** 0.5).astype(np.float32)
    if name.endswith(("weight", "running_var")):
        return numbers.uniform(0.5, 1.5, shape).astype(np.float32)
    return (numbers.standard_normal(shape) * 0.1).astype(np.float32)

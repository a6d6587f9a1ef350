"""The real images that others are scored against, as statistics; and the file that keeps them for the next time.

One safetensors file: means, covariances, the features for precision and recall, and `facts`, JSON, in its metadata.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from elm_dist.errors import EvaluationError
from elm_dist.evaluation.features import FeatureExtractor
from elm_dist.evaluation.scores import FeatureStatistics
from elm_dist.files import replacing

SUFFIX = ".safetensors"
FACTS = "elm_reference"
REFERENCE_LIMIT = 10_000  # images for precision and recall: as many as ADM's reference files hold


@dataclass(frozen=True)
class Reference:
    """Everything that a set of images is compared with; on the CPU."""

    pooled: FeatureStatistics
    spatial: FeatureStatistics | None  # Inception's alone
    manifold: Tensor  # (n, dimension), fp32
    facts: dict[str, Any]  # what it was made of and with, as JSON knows it


def save_reference(path: Path, reference: Reference) -> None:
    """Write the statistics of a reference; `load_reference` gives them back."""
    tensors = {"mean": reference.pooled.mean, "covariance": reference.pooled.covariance, "manifold": reference.manifold}
    if reference.spatial:
        tensors |= {"spatial_mean": reference.spatial.mean, "spatial_covariance": reference.spatial.covariance}
    counted = reference.facts | {"counted": reference.pooled.count}
    with replacing(path) as scratch:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, scratch, {FACTS: json.dumps(counted)})


def load_reference(path: Path, extractor: FeatureExtractor) -> Reference:
    """Return a reference that was saved; EvaluationError if it is damaged, or made with other features."""
    facts, tensors = _read(path)
    if (stored := facts["weights_sha256"]) != extractor.weights_sha256:
        raise EvaluationError(
            f"{path}: these reference statistics are of {facts['features']} with the weights {stored[:12]}, not of "
            f"{extractor.name} with {extractor.weights_sha256[:12]}; make them anew with --save-statistics"
        )
    count = facts.pop("counted")
    spatial = (
        FeatureStatistics.from_covariance(count, tensors["spatial_mean"], tensors["spatial_covariance"])
        if "spatial_mean" in tensors
        else None
    )
    pooled = FeatureStatistics.from_covariance(count, tensors["mean"], tensors["covariance"])
    return Reference(pooled, spatial, tensors["manifold"], facts)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()[FACTS])
            return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise EvaluationError(
            f"{path}: these are not statistics of `elm evaluate --save-statistics` ({' '.join(str(error).split())}); "
            "make them anew from the reference images"
        ) from None

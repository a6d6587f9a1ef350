"""The file of reference statistics: it gives back what it was given, and is refused where it does not fit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from elm_dist.errors import EvaluationError
from elm_dist.evaluation.features import FeatureExtractor
from elm_dist.evaluation.reference import Reference, load_reference, save_reference
from elm_dist.evaluation.scores import FeatureStatistics

FACTS = {"features": "mobilenet_v2", "weights_sha256": "a" * 64, "images": 9}


def extractor(weights: str) -> FeatureExtractor:
    return FeatureExtractor("mobilenet_v2", "FD", "of pixels", 5, weights * 64, nn.Flatten(), torch.device("cpu"))


def draw(dimension: int) -> Tensor:
    return torch.randn(9, dimension, generator=torch.Generator().manual_seed(dimension))


@pytest.mark.parametrize("has_spatial", [True, False])
def test_it_gives_back_what_it_was_given(tmp_path: Path, has_spatial: bool) -> None:
    spatial = FeatureStatistics.of(draw(7)) if has_spatial else None
    given = Reference(FeatureStatistics.of(draw(5)), spatial, draw(5), FACTS)
    save_reference(tmp_path / "real.safetensors", given)
    found = load_reference(tmp_path / "real.safetensors", extractor("a"))
    for one, other in ((given.pooled, found.pooled), (given.spatial, found.spatial)):
        if one and other:
            assert other.count == 9
            torch.testing.assert_close(other.mean, one.mean, rtol=0, atol=0)
            torch.testing.assert_close(other.covariance, one.covariance, rtol=1e-15, atol=0)
    assert (found.spatial is not None) == has_spatial
    torch.testing.assert_close(found.manifold, given.manifold, rtol=0, atol=0)
    assert found.facts == FACTS


def test_statistics_of_other_weights_are_refused(tmp_path: Path) -> None:
    save_reference(tmp_path / "real.safetensors", Reference(FeatureStatistics.of(draw(5)), None, draw(5), FACTS))
    message = (
        r"real\.safetensors: these reference statistics are of mobilenet_v2 with the weights aaaaaaaaaaaa, not of "
        r"mobilenet_v2 with bbbbbbbbbbbb; make them anew with --save-statistics"
    )
    with pytest.raises(EvaluationError, match=message):
        load_reference(tmp_path / "real.safetensors", extractor("b"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no tensors")
    save_file({"mean": torch.zeros(5)}, tmp_path / "other.safetensors")
    for name in ("text", "other", "absent"):
        message = rf"{name}\.safetensors: these are not statistics of `elm evaluate --save-statistics` \(.*\); make"
        with pytest.raises(EvaluationError, match=message):
            load_reference(tmp_path / f"{name}.safetensors", extractor("a"))

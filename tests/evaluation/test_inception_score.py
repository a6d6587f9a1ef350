"""Inception Score where it is known without computing, against torchmetrics, and over its stretches."""

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.inception import InceptionScore as TorchMetrics

from elm_dist.evaluation import inception_score
from elm_dist.evaluation.inception_score import InceptionScore


def score(logits: Tensor, batch: int = 1000) -> float:
    meter = InceptionScore()
    for part in logits.split(batch):
        meter.update(part)
    return meter.value()


def test_nothing_is_told_apart() -> None:
    assert score(torch.zeros(6, 10)) == pytest.approx(1)
    same = torch.randn(1, 10, generator=torch.Generator().manual_seed(0)).expand(6, 10)
    assert score(same) == pytest.approx(1)


def test_every_class_is_sure_and_as_frequent() -> None:
    assert score(1e4 * torch.eye(10).repeat(3, 1)) == pytest.approx(10)


def test_two_classes_by_hand() -> None:
    # p(y|x) is (3/4, 1/4) and (1/4, 3/4), their mean is even: KL = ln 2 - H(1/4).
    logits = torch.tensor([[3.0, 1], [1, 3]]).log()
    assert score(logits) == pytest.approx(2 * 0.75**0.75 * 0.25**0.25)


@pytest.mark.filterwarnings("ignore:std", "ignore:Metric `InceptionScore`")
def test_it_is_that_of_torchmetrics() -> None:
    logits = 3 * torch.randn(50, 20, generator=torch.Generator().manual_seed(0)).double()

    class Given(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return logits[: len(images)]

    metric = TorchMetrics(feature=Given(), splits=1, normalize=True)
    metric.update(torch.rand(50, 3, 2, 2))
    assert score(logits) == pytest.approx(metric.compute()[0].item(), rel=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 10, 25])
def test_each_stretch_has_a_score_of_its_own(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = 3 * torch.randn(25, 5, generator=torch.Generator().manual_seed(0))
    alone = [score(part) for part in logits.split(10)]  # the last is shorter
    monkeypatch.setattr(inception_score, "SPLIT", 10)
    assert score(logits, batch) == pytest.approx(sum(alone) / 3)


def test_images_that_come_class_by_class_score_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception_score, "SPLIT", 10)
    sure = 1e4 * torch.eye(10)
    assert score(sure.repeat(10, 1)) == pytest.approx(10)
    assert score(sure.repeat_interleave(10, dim=0)) == pytest.approx(1)

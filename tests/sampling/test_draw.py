"""Whatever the order in which a model sees codes, those that are drawn, known and watched are in raster order."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from elm_dist.codes.scan import scan_order
from elm_dist.config import ModelConfig
from elm_dist.config_file import load_config
from elm_dist.model.elm import DecoderStep
from elm_dist.sampling.draw import draw_codes
from elm_dist.sampling.generate import Known

TINY = Path(__file__).parent.parent / "tiny_run.yaml"
SCANS = get_args(ModelConfig.model_fields["scan"].annotation)


def counting(batch: int) -> DecoderStep:
    """Return a decoder that is sure of the number of the position for each code, of one sub-token of 8 bits."""

    def step(x: Tensor, position: int, row: int = 0, outputs: int = 1) -> Tensor:
        end = position + (x.shape[1] if position else 1)
        sure = torch.nn.functional.one_hot(torch.arange(end - outputs, end), 256) * 1e4
        return sure.view(1, outputs, 1, 256).expand(len(x), -1, -1, -1).float()

    return step


@pytest.mark.parametrize("scan", SCANS)
def test_codes_come_in_raster_order(scan: str) -> None:
    config = load_config(TINY, ["model.subtokens=1", "model.subtoken_bits=8", f"model.scan={scan}"])
    order = scan_order(scan, config.tokenizer.grid).copy()
    watched: list[tuple[Tensor, NDArray[np.bool_]]] = []
    codes = draw_codes(
        *(config, counting, torch.tensor([0, 1]), [0, 1]),
        on_progress=lambda codes, is_done: watched.append((codes.clone(), is_done.copy())),
    )
    assert codes[0, order, 0].tolist() == list(range(16))
    for number, (unfinished, is_done) in enumerate(watched, start=1):
        assert sorted(np.flatnonzero(is_done)) == sorted(order[:number])
        assert torch.equal(unfinished[:, is_done], codes[:, is_done])


@pytest.mark.parametrize("scan", SCANS)
def test_known_codes_are_given_in_raster_order(scan: str) -> None:
    config = load_config(TINY, ["model.subtokens=1", "model.subtoken_bits=8", f"model.scan={scan}"])
    positions = np.arange(16) < 4  # the first row
    known = Known(torch.full((1, 16, 1), 200), positions)
    codes = draw_codes(config, counting, torch.tensor([0]), [0], known=known)
    assert (codes[0, :4, 0] == 200).all()
    later = [place for place in scan_order(scan, config.tokenizer.grid) if place >= 4]
    assert codes[0, later, 0].tolist() == sorted(codes[0, later, 0].tolist())

"""The plots at their extremes: a single bit, codes that never change, and codes of 64 bits."""

import warnings
from xml.etree import ElementTree

import pytest
import torch

from elm_dist.analysis.tokenizer_measures import TokenizerMeasures
from elm_dist.analysis.tokenizer_plots import draw_plots
from elm_dist.codes.packing import pack_bits
from elm_dist.codes.subtokens import CodeShape
from elm_dist.evaluation.code_statistics import CodeCounter


@pytest.mark.parametrize(("code_bits", "share_of_ones"), [(1, 0.5), (8, 0.0), (64, 0.5)])
def test_every_plot_is_drawn_without_a_warning(code_bits: int, share_of_ones: float) -> None:
    counter = CodeCounter(CodeShape(16, 1, code_bits), 2**code_bits)
    bits = torch.rand(20, 16 * code_bits, generator=torch.Generator().manual_seed(0)) < share_of_ones
    counter.update(pack_bits(bits))
    equal = torch.ones(20)
    measures = TokenizerMeasures(100 * equal, equal, counter.statistics(), None, [], [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots = draw_plots(measures)
    assert len(plots) == 3
    for svg in plots.values():
        assert ElementTree.fromstring(svg).tag.endswith("svg")

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from elm_dist.config import Grid, ModelConfig
from elm_dist.model.cost import device_peak_flops, layer_forward_flops, training_flops_per_image
from elm_dist.model.elm import ELM, layer_specs
from elm_dist.model.layers import micro_batch_seed

XL = ModelConfig(num_layers=36, hidden_size=1280, num_heads=20, subtokens=2, subtoken_bits=10)


def test_forward_flops_are_those_that_torch_counts() -> None:
    model = ModelConfig(
        num_layers=2, hidden_size=64, num_heads=4, subtokens=2, subtoken_bits=6, num_classes=3, dropout=0
    )
    with torch.device("meta"):
        elm = ELM(layer_specs(model, Grid(4, 4)))
        batch = torch.zeros((1, 24), dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter, micro_batch_seed(0):
            elm(batch)
    assert counter.get_total_flops() == sum(layer_forward_flops(model, Grid(4, 4)))


def test_xl_costs_about_the_published_190_gmac_per_image() -> None:
    """The paper counts 189.98 GMAC: parameters x 256 tokens, which has the tables and not the scores of attention."""
    forward = sum(layer_forward_flops(XL, Grid(16, 16))) / 2e9
    assert forward == pytest.approx(189.98, rel=0.05)
    assert training_flops_per_image(XL, Grid(16, 16)) == 3 * sum(layer_forward_flops(XL, Grid(16, 16)))


def test_peaks_are_known_by_the_driver_s_name() -> None:
    assert device_peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert device_peak_flops("Unheard-of 1") is None

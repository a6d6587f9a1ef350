"""GPUs and networks are found by name, and unknown names answered with the nearest."""

import pytest

from elm_dist.errors import LayoutError
from elm_dist.model.cost import PEAK_FLOPS
from elm_dist.planning.hardware import FABRICS, GPUS, find_fabric, find_gpu


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(LayoutError, match=r"no GPU is called A100; did you mean a100-80gb\? there are a100-40gb"):
        find_gpu("A100")
    with pytest.raises(LayoutError, match=r"no fabric is called eth25; did you mean eth-25g\? there are ib-ndr400-x8"):
        find_fabric("eth25")
    with pytest.raises(LayoutError, match="no GPU is called !; there are"):
        find_gpu("!")


def test_peaks_are_those_by_which_a_run_reports_its_mfu() -> None:
    for name, gpu in GPUS.items():
        part = name.partition("-")[0].upper()
        if part in PEAK_FLOPS:
            assert gpu.peaks["bf16"] == PEAK_FLOPS[part]


def test_what_is_there_is_in_order() -> None:
    for gpu in GPUS.values():
        assert 20e9 < gpu.memory < 200e9
        assert gpu.link < gpu.bandwidth
        assert 0 < gpu.efficiency < 1
    assert "bf16" not in GPUS["v100-32gb"].peaks
    rates = [fabric.bandwidth for fabric in FABRICS.values()]
    assert rates == sorted(rates, reverse=True)

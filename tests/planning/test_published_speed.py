"""The planner's accounting of MFU, and its model of a GPU's speed, on llm-foundry's published runs."""

import csv
from pathlib import Path
from statistics import median

import pytest

from elm_dist.planning.hardware import find_gpu
from elm_dist.planning.throughput import conventional_flops, flops_share
from elm_dist.planning.work import LOGIT_WRITTEN, TRAFFIC

ROWS = list(csv.DictReader((Path(__file__).parent / "data" / "llmfoundry_mfu.csv").open()))
SHAPES = {  # MPT: layers, hidden size
    "125m": (12, 768),
    "350m": (24, 1024),
    "760m": (24, 1536),
    "1b": (24, 2048),
    "3b": (32, 2560),
    "7b": (32, 4096),
    "13b": (40, 5120),
    "30b": (48, 7168),
    "70b": (80, 8192),
}
VOCABULARY = 50_368


def flops(row: dict[str, str]) -> int:
    layers, hidden_size = SHAPES[row["model"]]
    return conventional_flops(int(row["params"]), layers, hidden_size, int(row["seq"]))


@pytest.mark.parametrize("gpu", ["a100_40gb", "a100_80gb", "h100_80gb"])
def test_mfu_is_counted_as_they_count_it(gpu: str) -> None:
    peak = find_gpu(gpu.replace("_", "-")).peaks["bf16"]
    rows = [row for row in ROWS if row["gpu"] == gpu]
    worst = max(
        abs(100 * flops_share(flops(row) * float(row["tok_s_gpu"]), 1.0, peak) / float(row["mfu"]) - 1) for row in rows
    )
    print(f"MFU of {len(rows)} runs on {gpu}: within {worst:.2%}")
    assert worst <= 0.005


def planned_seconds(row: dict[str, str]) -> float:
    """Return the seconds of a token, from products and memory traffic as in work.py; MPT's blocks keep 34 h bytes."""
    gpu = find_gpu(row["gpu"].replace("_", "-"))
    layers, hidden_size = SHAPES[row["model"]]
    passes = 4 / 3 if row["act_ckpt"] == "True" else 1
    written = 34 * hidden_size * layers * passes + LOGIT_WRITTEN * VOCABULARY
    return passes * flops(row) / (gpu.peaks["bf16"] * gpu.efficiency) + TRAFFIC * written / gpu.bandwidth


@pytest.mark.parametrize(("most", "limit"), [(8, 0.08), (512, 0.20)], ids=["one node", "several nodes"])
def test_speed_is_near_what_they_reached(most: int, limit: float) -> None:
    """The constants are fitted to the runs on one node; those on several also pay for a network."""
    rows = [row for row in ROWS if int(row["seq"]) <= 2048 and (int(row["gpus"]) <= 8) == (most == 8)]
    found = [abs(planned_seconds(row) * float(row["tok_s_gpu"]) - 1) for row in rows]
    print(f"speed of {len(rows)} runs on at most {most} GPUs: median error {median(found):.1%}, worst {max(found):.1%}")
    assert len(rows) >= 15
    assert median(found) <= limit

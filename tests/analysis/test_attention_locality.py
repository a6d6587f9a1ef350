"""How far attention reaches: masses of weights that are known, and weights that are those of the model's own kernel."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import elm, refused
from torch import Tensor
from trained_run import TINY

from elm_dist.analysis.attention_locality import (
    Distances,
    grid_distances,
    lay_out,
    measure_attention,
    measure_locality,
    uniform_locality,
)
from elm_dist.analysis.attention_weights import attention_by_layer, attention_weights, visible_softmax
from elm_dist.analysis.measured_run import open_run
from elm_dist.config import Config, Grid, ModelConfig
from elm_dist.config_file import load_config
from elm_dist.model.attention import Attention, reference_attention
from elm_dist.model.elm import ELM, code_shape, initialize, layer_specs
from elm_dist.model.masking import append_mask, hidden_cells

GRID = Grid(4, 4)
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"modelling": "masked"},
    {"conditioning": "adaln", "scan": "diagonal_zigzag"},
    {"position_encoding": "learned", "key_value_heads": 1, "attention": "cosine"},
)


def model_config(**variant: Any) -> ModelConfig:
    sizes = {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "subtokens": 2, "subtoken_bits": 4, "num_classes": 4}
    return ModelConfig(**sizes, **variant)


def build(**variant: Any) -> tuple[ELM, tuple[Tensor, Tensor]]:
    """Return a model with weights as they are drawn, and rows of random codes with labels."""
    config = model_config(**variant)
    model = ELM(layer_specs(config, GRID)).eval().requires_grad_(False)
    initialize(model.named_parameters(), seed=3)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(256, (3, code_shape(config, GRID).packed_bytes), generator=generator).to(torch.uint8)
    if config.modelling == "masked":
        rows = append_mask(rows, hidden_cells(0, GRID.cells, torch.arange(3).numpy(), None))
    return model, (rows, torch.tensor([0, 1, 4]))


def distances_of(model: ModelConfig) -> Distances:
    config = load_config(TINY)
    changed: Config = config.model_copy(update={"model": model})
    assert changed.tokenizer.grid == GRID
    return lay_out(changed, torch.device("cpu"))


def test_distances_are_from_the_cell_that_is_predicted_to_that_which_is_known() -> None:
    grid = Grid(2, 3)
    distances = grid_distances(torch.tensor([0, 3, 5]), torch.tensor([-1, 0, 2]), grid)
    assert distances.cells.tolist() == [[3, 0, 2], [3, 1, 2], [3, 2, 1]]  # row by row: 0 1 2 / 3 4 5
    assert distances.rows.tolist() == [[3, 0, 0], [3, 1, 1], [3, 1, 1]]
    assert distances.beyond == 3


def test_known_weights_have_known_masses() -> None:
    # Four cells of a 2 x 2 grid: the queries predict 0, 1, 2, 3 and the keys hold the class, 0, 1, 2.
    distances = grid_distances(torch.arange(4), torch.tensor([-1, 0, 1, 2]), Grid(2, 2))
    rows = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0.25, 0.25, 0.25, 0.25]]
    found = measure_locality(torch.tensor(rows)[None, None], distances)
    assert found.mass.tolist() == [[0, 2.25 / 4, 1.75 / 4]]  # every cell touches every other
    assert found.row_mass.tolist() == [[(0.5 + 0.25) / 4, (1 + 0.5) / 4, 1.75 / 4]]
    assert found.class_mass.tolist() == [1.75 / 4]
    assert found.entropy_bits.tolist() == pytest.approx([(0 + 1 + 0 + 2) / 4])
    assert found.mean_distance.tolist() == [1]
    assert [found.mass_within(distance).item() for distance in (0, 1, 3)] == [0, 2.25 / 4, 2.25 / 4]


def test_the_code_before_is_a_row_away_where_a_row_begins() -> None:
    distances = distances_of(model_config())
    found = measure_locality(torch.eye(16)[None, None], distances)  # each query looks at the newest code
    assert found.class_mass.item() == 1 / 16
    assert found.mass[0, 1].item() == 12 / 16
    assert found.mass[0, 3].item() == 3 / 16
    assert found.row_mass[0, 1].item() == 3 / 16
    assert found.mean_distance.item() == pytest.approx((12 + 3 * 3) / 15)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_weights_are_those_that_values_are_mixed_with(variant: dict[str, Any]) -> None:
    attention = Attention(model_config(**variant), GRID)
    generator = torch.Generator().manual_seed(1)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    length = 17 if variant.get("modelling") == "masked" else 16
    x = torch.randn(2, length, 32, generator=generator)
    table = attention.table(x)
    with torch.no_grad():
        q, k, v = attention.project(x, table)
        weights = attention_weights(attention, x, table)
        values = v.repeat_interleave(4 // v.shape[1], dim=1)
        torch.testing.assert_close(weights @ values, reference_attention(q, k, v, attention.causal))
    assert attention.causal == (length == 16)
    torch.testing.assert_close(weights.sum(dim=3), torch.ones(2, 4, length))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_block_is_seen_and_all_attention_goes_somewhere(variant: dict[str, Any]) -> None:
    model, batch = build(**variant)
    distances = distances_of(model_config(**variant))
    layers = list(attention_by_layer(model, batch))
    assert len(layers) == 2
    for weights in layers:
        found = measure_locality(weights[:, :, -16:], distances)
        for mass in (found.mass, found.row_mass):
            torch.testing.assert_close(mass.sum(dim=1), torch.ones(4, dtype=torch.float64), rtol=1e-6, atol=0)
    assert not any(block.attention._forward_pre_hooks for block in list(model)[1:-1])


@pytest.mark.parametrize("variant", VARIANTS[:3], ids=str)
def test_a_model_that_looks_at_everything_alike_is_the_baseline(variant: dict[str, Any]) -> None:
    model, batch = build(**variant)
    for block in list(model)[1:-1]:
        block.attention.qkv.weight.zero_()
    config = model_config(**variant)
    distances = distances_of(config)
    uniform = uniform_locality(distances, config.modelling == "autoregressive")
    for weights in attention_by_layer(model, batch):
        for found, expected in zip(measure_locality(weights[:, :, -16:], distances), uniform, strict=True):
            torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-12, atol=1e-15)


def test_the_baseline_of_a_causal_model_is_what_arithmetic_says() -> None:
    uniform = uniform_locality(distances_of(model_config()), causal=True)
    visible = torch.arange(1, 17, dtype=torch.float64)
    assert uniform.class_mass.item() == pytest.approx((1 / visible).mean().item(), rel=1e-6)
    assert uniform.entropy_bits.item() == pytest.approx(visible.log2().mean().item(), rel=1e-6)


def test_what_comes_later_has_no_weight() -> None:
    assert visible_softmax(torch.zeros(2, 2), causal=True).tolist() == [[1, 0], [0.5, 0.5]]
    assert visible_softmax(torch.zeros(2, 2), causal=False).tolist() == [[0.5, 0.5]] * 2


def test_the_command_leaves_a_row_for_each_layer_head_and_distance(trained: Path, tmp_path: Path) -> None:
    result = elm("analyze", "attention", str(trained), "--out", str(tmp_path), "--images", "5", "--step", "3")
    assert result.code == 0, result
    assert "on 5 validation images" in " ".join(result.stdout.split())
    rows = list(csv.DictReader((tmp_path / "attention_locality.csv").open()))
    places = [(int(row["layer"]), int(row["head"]), int(row["distance_cells"])) for row in rows]
    assert places == [(layer, head, distance) for layer in (1, 2) for head in (0, 1) for distance in range(4)]
    for first in range(0, len(rows), 4):
        for name in ("mass", "row_mass"):
            on_cells = sum(float(row[name]) for row in rows[first : first + 4])
            assert on_cells + float(rows[first]["class_mass"]) == pytest.approx(1, rel=1e-6)
    facts = json.loads((tmp_path / "attention_locality.json").read_text())
    assert facts["settings"]["map_layers"] == [2]  # half the depth of two, and the last
    assert (facts["settings"]["step"], facts["settings"]["images"]) == (3, 5)
    assert facts["summary"]["class_mass"] == pytest.approx(sum(float(row["class_mass"]) for row in rows[::4]) / 4)
    assert "<svg" in (tmp_path / "attention_locality.svg").read_text()


def test_images_are_averaged_whatever_the_batches(trained: Path) -> None:
    small, whole = (open_run(trained, ("ema",), batch_size=size) for size in (3, 8))
    a, b = (measure_attention(opened, 7, [1]) for opened in (small, whole))
    for found, expected in zip(a.layers, b.layers, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(a.maps[1], b.maps[1], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(a.maps[1].sum(dim=1), torch.ones(16, dtype=torch.float64), rtol=1e-6, atol=0)


def test_what_cannot_be_measured_is_refused(trained: Path, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    said = refused("analyze", "attention", str(trained), *out, "--layers", "1,3")
    assert said == f"error: --layers 3: {trained} has the layers 1 to 2; name some of these\n"
    assert "--layers: 'last' is not a list of layers; write them as in 13,24" in refused(
        "analyze", "attention", str(trained), *out, "--layers", "last"
    )
    assert "--images" in refused("analyze", "attention", str(trained), *out, "--images", "0")
    assert f"error: {trained} has no checkpoint of step 5" in refused(
        "analyze", "attention", str(trained), *out, "--step", "5"
    )
    assert f"error: {tmp_path} is not a run" in refused("analyze", "attention", str(tmp_path), *out)
    (tmp_path / "config.yaml").write_text((trained / "config.yaml").read_text())
    assert f"error: {tmp_path} has no checkpoint" in refused("analyze", "attention", str(tmp_path), *out)
    assert not (tmp_path / "out").exists()

"""The loss by position and head: its mean is what `elm evaluate` finds, and each number that of its cell."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import elm, refused

from elm_dist.analysis.measured_run import MeasuredRun, open_run
from elm_dist.analysis.position_loss import measure_position_loss
from elm_dist.analysis.run_loss import evaluate_run
from elm_dist.checkpoint.model import Weights
from elm_dist.codes.packing import unpack_subtokens
from elm_dist.codes.scan import scan_order
from elm_dist.data.loader import load_tokens
from elm_dist.errors import EvaluationError
from elm_dist.model.elm import ELM, initialize, layer_specs
from elm_dist.model.loss import build_loss


class UntrainedRun(MeasuredRun):
    """A run whose weights are as they are drawn, so that models of any kind can be measured on its shards."""

    def load_model(self, weights: Weights) -> ELM:
        model = ELM(layer_specs(self.config.model, self.config.tokenizer.grid)).eval().requires_grad_(False)
        initialize(model.named_parameters(), seed=1)
        for name, parameter in model.named_parameters():
            if name.startswith("head"):  # which is zero at first: every loss would be alike
                parameter.normal_(generator=torch.Generator().manual_seed(2))
        return model


def vary(trained: Path, images: int | None = None, **variant: str) -> UntrainedRun:
    opened = open_run(trained, ("ema",), batch_size=32)
    config = opened.config.model_copy(update={"model": opened.config.model.model_copy(update=variant)})
    loader = load_tokens(config, global_batch_size=8, micro_batch_size=32, class_dropout=0, verify=True)
    run = UntrainedRun(opened.run, config, opened.checkpoint, opened.kinds, loader, opened.device)
    if images is not None:
        entry = loader.manifest.splits["validation"][0].model_copy(update={"samples": images})
        splits = loader.manifest.splits | {"validation": (entry,)}
        loader.manifest = loader.manifest.model_copy(update={"splits": splits})
    return replace(run, loader=loader)


def test_the_mean_is_what_evaluate_finds(trained: Path, tmp_path: Path) -> None:
    result = elm("analyze", "loss", str(trained), "--out", str(tmp_path))
    assert result.code == 0, result
    facts = json.loads((tmp_path / "position_loss.json").read_text())
    scores = evaluate_run(trained, batch_size=5).scores
    assert facts["summary"]["loss_nats"] == pytest.approx(scores["ema validation/loss"], abs=1e-6)
    assert facts["summary"]["bits_per_code_bit"] == pytest.approx(scores["ema validation/bits_per_code_bit"], abs=1e-6)
    rows = list(csv.DictReader((tmp_path / "position_loss.csv").open()))
    assert [(int(row["position"]), int(row["head"])) for row in rows] == [(p, h) for p in range(16) for h in range(2)]
    bits = sum(float(row["loss_bits"]) for row in rows) / len(rows)
    assert bits * math.log(2) == pytest.approx(scores["ema validation/loss"], abs=1e-6)
    for head in range(2):
        of_head = sum(float(row["loss_bits"]) for row in rows[head::2]) / 16
        assert of_head * math.log(2) == pytest.approx(scores[f"ema validation/loss_head_{head}"], abs=1e-6)
        assert facts["summary"][f"head_{head}_bits"] == pytest.approx(of_head)
    assert "<svg" in (tmp_path / "position_loss.svg").read_text()


@pytest.mark.parametrize("scan", ["row_raster", "diagonal_zigzag"])
def test_each_number_is_that_of_its_cell(trained: Path, scan: str) -> None:
    opened = vary(trained, scan=scan)
    loss = measure_position_loss(opened)
    batch = opened.loader.validation_micro_batch(0, 0)
    assert len(batch.codes) == opened.images
    log_probabilities = opened.load_model("ema")((batch.codes, batch.labels)).log_softmax(dim=3)
    targets = unpack_subtokens(batch.codes, opened.code_shape)
    cell = int(scan_order(scan, opened.config.tokenizer.grid)[5])
    bits = -log_probabilities[:, 5, 1].gather(1, targets[:, 5, 1:]).mean() / math.log(2)
    assert loss.bits[cell, 1].item() == pytest.approx(bits.item(), rel=1e-5)
    assert loss.bits.flatten().unique().numel() == 32


def test_a_masked_model_is_measured_where_codes_are_hidden(trained: Path) -> None:
    opened = vary(trained, modelling="masked")
    model, reported = opened.load_model("ema"), build_loss(opened.config.model, opened.code_shape)
    for batch in opened.batches(opened.images, "loss"):
        reported(model(batch), batch[0])
    *sums, count = reported.sums.tolist()
    loss = measure_position_loss(opened)
    assert loss.images.sum().item() == count < 16 * opened.images
    nats = [total / count for total in sums[:2]]
    assert (loss.mean() * math.log(2)).tolist() == pytest.approx(nats, rel=1e-6)


def test_a_cell_that_is_never_hidden_is_refused(trained: Path) -> None:
    opened = vary(trained, images=1, modelling="masked")
    with pytest.raises(EvaluationError, match="of 1 validation images none hides the code of position"):
        measure_position_loss(opened)


def test_what_cannot_be_measured_is_refused(trained: Path, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    assert f"error: {tmp_path} is not a run" in refused("analyze", "loss", str(tmp_path), *out)
    assert f"error: {trained} has no checkpoint of step 4" in refused(
        "analyze", "loss", str(trained), *out, "--step", "4"
    )
    (tmp_path / "config.yaml").write_text((trained / "config.yaml").read_text())
    assert f"error: {tmp_path} has no checkpoint" in refused("analyze", "loss", str(tmp_path), *out)

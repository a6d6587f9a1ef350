"""`elm analyze scaling` on runs whose losses were planted, and on one that was really trained."""

import csv
import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from command_line import elm, refused
from trained_run import TINY

from elm_dist.config import Config
from elm_dist.config_file import dump_config, load_config
from elm_dist.model.cost import count_parameters, training_flops_per_image

FLOOR, SIZE_FACTOR, SIZE_EXPONENT = 0.3, 5.0, 0.35  # L(N, D) = floor + 5 N^-0.35 + 0.8 D^-0.5
DATA_FACTOR, DATA_EXPONENT = 0.8, 0.5
SIZES = {"small": (1, 32), "middle": (2, 64), "large": (4, 96), "huge": (6, 160)}  # layers and width
STEPS = (2, 4, 8, 16, 32, 64)  # of which the first is of the warm-up
BATCH = 8


def configure(layers: int, width: int, *overrides: str) -> Config:
    return load_config(TINY, [f"model.num_layers={layers}", f"model.hidden_size={width}", *overrides])


def parameters_of(config: Config) -> int:
    return count_parameters(config.model, config.tokenizer.grid)


def planted(config: Config, images: float) -> float:
    parameters = parameters_of(config)
    return FLOOR + SIZE_FACTOR * parameters**-SIZE_EXPONENT + DATA_FACTOR * images**-DATA_EXPONENT


def write_run(
    run: Path, config: Config, *, split: str = "validation", steps: tuple[int, ...] = STEPS, shift: float = 0.0
) -> Path:
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(config))
    losses = {step: planted(config, BATCH * step) + shift for step in steps}
    lines = [json.dumps({"step": step, f"{split}/bits_per_code_bit": loss}) for step, loss in losses.items()]
    (run / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 6']))  # the last line of a run that was killed
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / name, configure(*size)) for name, size in SIZES.items()]


def analyze(runs: list[Path], out: Path, *options: str) -> tuple[list[dict[str, str]], dict[str, Any], str]:
    """Return the table, the facts, and what was said."""
    result = elm("analyze", "scaling", *map(str, runs), "--out", str(out), "--bootstrap", "50", *options)
    assert result.code == 0, result
    assert ElementTree.parse(out / "scaling.svg").getroot().tag.endswith("svg")
    table = list(csv.DictReader((out / "scaling.csv").open()))
    return table, json.loads((out / "scaling.json").read_text()), " ".join(result.stdout.split())


def test_planted_laws_are_found_against_parameters_and_images(runs: list[Path], tmp_path: Path) -> None:
    _, facts, said = analyze(runs, tmp_path / "out")
    law = facts["summary"]["2-4 against parameters"]
    assert (law["factor"], law["exponent"]) == pytest.approx((SIZE_FACTOR, SIZE_EXPONENT), rel=1e-3)
    assert law["floor"] == pytest.approx(FLOOR + DATA_FACTOR * (BATCH * 64) ** -DATA_EXPONENT, rel=1e-3)
    for run in runs:
        parameters = parameters_of(load_config(run / "config.yaml"))
        law = facts["summary"][f"2-4 against images, {parameters:,} parameters"]
        assert (law["factor"], law["exponent"]) == pytest.approx((DATA_FACTOR, DATA_EXPONENT), rel=1e-3)
        assert law["floor"] == pytest.approx(FLOOR + SIZE_FACTOR * parameters**-SIZE_EXPONENT, rel=1e-3)
        assert law["points"] == len(STEPS) - 1  # none of the warm-up
    assert "validation, in bits per code bit; sizes compare at 512 images" in said


def test_the_frontier_is_the_best_of_all_sizes_for_its_compute(runs: list[Path], tmp_path: Path) -> None:
    _, facts, _ = analyze(runs, tmp_path / "out")
    law = facts["summary"]["2-4 against training FLOPs, the best of all sizes"]
    points = []
    for run in runs:
        config = load_config(run / "config.yaml")
        flops = BATCH * training_flops_per_image(config.model, config.tokenizer.grid)
        points += [(step * flops, planted(config, BATCH * step)) for step in STEPS[1:]]
    best = [point for point in points if not any(x <= point[0] and y < point[1] for x, y in points)]
    assert len(points) > len(best) > 4
    assert (law["points"], law["largest_x"]) == (len(best), max(best)[0])


def test_there_is_a_row_for_each_measurement(runs: list[Path], tmp_path: Path) -> None:
    table, facts, _ = analyze(runs[::-1], tmp_path / "out")
    assert len(table) == len(SIZES) * len(STEPS)
    row = table[-2]  # of the largest model, whatever the order that runs were given in
    config = configure(*SIZES["huge"])
    bits = planted(config, BATCH * 32)
    assert (row["run"], row["series"], row["seed"]) == (str(tmp_path / "huge"), "2-4", "1")
    assert (int(row["step"]), int(row["images"])) == (32, 256)
    assert int(row["parameters"]) == parameters_of(config)
    flops = 256 * training_flops_per_image(config.model, config.tokenizer.grid)
    assert float(row["training_flops"]) == pytest.approx(flops)
    assert float(row["validation_bits_per_code_bit"]) == pytest.approx(bits)
    assert float(row["validation_loss_nats"]) == pytest.approx(bits * 4 * math.log(2))
    assert [row["is_fitted"] for row in table[-6:]] == ["False", *["True"] * 5]
    assert facts["settings"]["runs"][str(tmp_path / "huge")] == {"seed": 1, "shards": "unused"}


def test_sizes_compare_after_as_many_images_as_all_have_seen(runs: list[Path], tmp_path: Path) -> None:
    short = write_run(tmp_path / "short", configure(3, 64), steps=STEPS[:-2])
    _, facts, _ = analyze([*runs, short], tmp_path / "out")
    law = facts["summary"]["2-4 against parameters"]
    assert facts["settings"]["images"] == 16 * BATCH
    assert law["floor"] == pytest.approx(FLOOR + DATA_FACTOR * (BATCH * 16) ** -DATA_EXPONENT, rel=1e-3)


def test_seeds_of_a_size_are_a_mean_with_its_deviation(runs: list[Path], tmp_path: Path) -> None:
    others = [
        write_run(tmp_path / f"{name}_2", configure(*size, "run.seed=2"), shift=0.002) for name, size in SIZES.items()
    ]
    _, facts, said = analyze([*runs, *others], tmp_path / "out")
    config = configure(*SIZES["small"])
    mean = facts["summary"][f"2-4, {parameters_of(config):,} parameters"]
    assert mean["bits_per_code_bit"] == pytest.approx(planted(config, 512) + 0.001)
    assert mean["standard_deviation"] == pytest.approx(0.002 / math.sqrt(2))
    assert "mean of 2 seeds with a standard deviation of 0.0014" in said
    law = facts["summary"]["2-4 against parameters"]
    assert (law["resampled"], law["points"]) == ("seeds", len(SIZES))


def test_other_decompositions_and_other_models_are_series_of_their_own(runs: list[Path], tmp_path: Path) -> None:
    whole = ["model.subtokens=1", "model.subtoken_bits=8"]
    others = [write_run(tmp_path / f"whole_{layers}", configure(layers, 32, *whole)) for layers in (1, 3)]
    table, facts, said = analyze([*runs, *others], tmp_path / "out")
    assert list(facts["settings"]["series"]) == ["2-4", "1-8"]
    assert {row["series"] for row in table if "whole" in row["run"]} == {"1-8"}
    assert facts["summary"]["1-8 against parameters"]["points"] == 2
    assert "2 points: too few for a floor, which takes 4, so it is set to 0; no intervals: two points fix" in said
    dropped = write_run(tmp_path / "dropped", configure(2, 32, "model.dropout=0.2"))
    _, facts, _ = analyze([*runs, dropped], tmp_path / "dropout")
    assert list(facts["settings"]["series"]) == ["2-4 dropout=0.1", "2-4 dropout=0.2"]
    assert "2-4 dropout=0.2 against parameters" not in facts["summary"]


def test_configurations_are_foretold_and_far_ones_with_a_warning(runs: list[Path], tmp_path: Path) -> None:
    near, far = tmp_path / "near.yaml", tmp_path / "far.yaml"
    schedule = ["schedule.total_steps=64"]
    near.write_text(dump_config(configure(6, 192, *schedule)))
    far.write_text(dump_config(configure(12, 512, *schedule)))
    _, facts, said = analyze(runs, tmp_path / "out", "--predict", str(near), "--predict", str(far))
    for path, is_far in ((near, False), (far, True)):
        config = load_config(path)
        found = facts["summary"][f"{path}, {parameters_of(config):,} parameters at 512 images"]
        assert found["bits_per_code_bit"] == pytest.approx(planted(config, 512), abs=1e-4)
        assert found["loss_nats"] == pytest.approx(found["bits_per_code_bit"] * 4 * math.log(2))
        low, high = found["interval_95_percent"]
        assert low <= planted(config, 512) + 1e-6
        assert planted(config, 512) <= high + 1e-6
        assert found["is_far"] == is_far
        assert (found["times_the_largest"] > 4) == is_far
        flops = 512 * training_flops_per_image(config.model, config.tokenizer.grid)
        assert facts["summary"][f"{path}, {flops:.3g} training FLOPs"]["is_far"] == is_far
    assert said.count("WARNING: this is") == 2


def test_without_validation_all_losses_are_those_of_training(runs: list[Path], tmp_path: Path) -> None:
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.writelines(f"\n{json.dumps({'step': step, 'train/bits_per_code_bit': 0.7})}" for step in STEPS)
    other = write_run(tmp_path / "other", configure(3, 32), split="train")
    table, facts, said = analyze([runs[0], other], tmp_path / "out")
    assert facts["settings"]["split"] == "train"
    assert {float(row["train_bits_per_code_bit"]) for row in table if row["run"] == str(runs[0])} == {0.7}
    assert "loss: train, in bits per code bit" in said


def test_a_run_that_was_really_trained_can_be_read(trained: Path, tmp_path: Path) -> None:
    layout = load_config(trained / "config.yaml")
    other = layout.model_copy(update={"model": layout.model.model_copy(update={"num_layers": 4})})
    table, _, _ = analyze([trained, write_run(tmp_path / "other", other, steps=(3, 6))], tmp_path / "out")
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    expected = {line["step"]: line["validation/loss"] for line in lines if "validation/loss" in line}
    found = {int(row["step"]): float(row["validation_loss_nats"]) for row in table if row["run"] == str(trained)}
    assert found == pytest.approx(expected)


def test_runs_that_say_nothing_of_scaling_are_refused(runs: list[Path], trained: Path, tmp_path: Path) -> None:
    def refuse(*arguments: Path | str) -> str:
        return refused("analyze", "scaling", *map(str, arguments), "--out", str(tmp_path / "out"))

    said = refuse(trained)
    assert "error: scaling takes two sizes of a model or more, and no two of these runs differ in size alone" in said
    assert f"error: {runs[0]} is given twice; give each run once" in refuse(runs[0], runs[1], runs[0].parent / "small")
    assert f"error: {tmp_path} is not a run: it has no config.yaml" in refuse(tmp_path, runs[0])
    late = write_run(tmp_path / "late", configure(3, 32), steps=(128,))
    said = refuse(*runs, late)
    assert f"error: {late} was first measured at 1,024 images, and {runs[0]} ends at 512, so that they do not" in said
    silent = write_run(tmp_path / "silent", configure(3, 32), steps=STEPS[:1])  # of its warm-up
    assert f"error: {silent} has no loss in metrics.jsonl that was measured after its warm-up" in refuse(*runs, silent)
    training = write_run(tmp_path / "training", configure(3, 32), split="train")
    assert f"error: {runs[0]} has losses of validation alone, and other runs of" in refuse(*runs, training)
    assert not (tmp_path / "out").exists()


def test_configurations_of_other_models_are_not_foretold(runs: list[Path], tmp_path: Path) -> None:
    other, lone = tmp_path / "other.yaml", write_run(tmp_path / "lone", configure(2, 32, "model.num_classes=7"))
    other.write_text(dump_config(configure(2, 32, "model.num_classes=9")))
    command = ["analyze", "scaling", *map(str, runs), "--out", str(tmp_path / "out"), "--bootstrap", "50"]
    said = refused(*command, "--predict", str(other))
    assert f"error: --predict {other}: its model.num_classes is not as in the runs of 2-4, and laws hold for" in said
    said = refused(*command, str(lone), "--predict", str(lone / "config.yaml"))
    assert f"--predict {lone / 'config.yaml'}: it belongs to the runs of 2-4 num_classes=7, which are of one" in said

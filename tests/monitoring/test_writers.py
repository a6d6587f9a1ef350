import json
import logging
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from elm_dist.monitoring import metrics as names
from elm_dist.monitoring.writers import ConsoleWriter, JsonlWriter, TensorBoardWriter, Writers


def test_console_line_shows_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    values = {
        names.LOSS: 8.4312,
        names.LEARNING_RATE: 1e-4,
        names.GRAD_NORM: 0.62,
        names.IMAGES_PER_SECOND: 4310.0,
        names.DATA_WAIT_PERCENT: 0.4,
        names.ETA_HOURS: 76.0,
    }
    with caplog.at_level(logging.INFO):
        ConsoleWriter(400_000).write(12_300, values)
    bar = "[>-------------------]"
    expected = (
        f"step 12,300/400,000 {bar} 3.1% | loss 8.4312 | lr 1.0e-04 | gnorm 0.62 | 4,310 img/s | data 0.4% | eta 3d 04h"
    )
    assert caplog.messages == [expected]


def test_jsonl_drops_what_a_resumed_run_will_write_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = JsonlWriter(path, first_step=0)
    for step in (10, 20, 30):
        first.write(step, {"train/loss": step / 10})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 40, "train/lo')  # torn by a crash
    resumed = JsonlWriter(path, first_step=20)
    resumed.write(30, {"train/loss": 9.0})
    resumed.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["train/loss"]) for line in lines] == [(10, 1.0), (20, 2.0), (30, 9.0)]


def test_tensorboard_reads_scalars_and_images(tmp_path: Path) -> None:
    first = TensorBoardWriter(tmp_path)
    for step in (10, 20, 30):
        first.write(step, {"train/loss": float(step)})
    first.close()
    resumed = TensorBoardWriter(tmp_path, first_step=20)
    resumed.write(30, {"train/loss": 9.0})
    resumed.image(30, names.SAMPLE_GRID, np.zeros((3, 8, 8), np.uint8))
    resumed.text(20, "faults", "- after step 25: the disk is full")
    resumed.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(10, 10), (20, 20), (30, 9)]
    assert events.Images(names.SAMPLE_GRID)[0].width == 8
    (faults,) = events.Tensors("faults/text_summary")
    assert (faults.step, faults.tensor_proto.string_val[0]) == (20, b"- after step 25: the disk is full")


def test_tensorboard_begins_anew_what_was_killed_before_its_first_checkpoint(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        writer = TensorBoardWriter(tmp_path)
        writer.write(10, {"train/loss": value})
        writer.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [(10, 2)]


def test_writers_pass_everything_on(tmp_path: Path) -> None:
    writers = Writers([JsonlWriter(tmp_path / "one", 0), JsonlWriter(tmp_path / "two", 0)])
    writers.write(1, {"train/loss": 2.0})
    writers.image(1, "samples/grid", np.zeros((3, 2, 2), np.uint8))
    writers.close()
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text() == '{"step": 1, "train/loss": 2.0}\n'


def test_no_writers_are_silent() -> None:
    writers = Writers()
    writers.write(1, {"train/loss": 2.0})
    writers.close()

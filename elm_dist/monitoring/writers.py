"""Where metrics go: the console, `metrics.jsonl`, and TensorBoard."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elm_dist.monitoring import metrics as names
from elm_dist.monitoring.charts import Charts

log = logging.getLogger(__name__)

BAR = 20  # characters of the progress bar of a console line


class Writer(Protocol):
    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def image(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Take an image (3, height, width)."""

    def text(self, step: int, name: str, text: str) -> None:
        """Take a text in markdown."""

    def close(self) -> None: ...


class Writers:
    """Passes everything on to several writers; with none of them it is silent, as on all ranks but one."""

    def __init__(self, writers: Sequence[Writer] = ()) -> None:
        self._writers = writers

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write(step, values)

    def image(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        for writer in self._writers:
            writer.image(step, name, image)

    def text(self, step: int, name: str, text: str) -> None:
        for writer in self._writers:
            writer.text(step, name, text)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class ConsoleWriter:
    """One line per report: how far, the loss, the speed, and when it will end."""

    def __init__(self, total_steps: int) -> None:
        self._total = total_steps

    def write(self, step: int, values: Mapping[str, float]) -> None:
        log.info("%s", self.line(step, values))

    def line(self, step: int, values: Mapping[str, float]) -> str:
        done = step / self._total
        bar = "=" * int(done * BAR) + ">" * (step < self._total)
        head = f"step {step:,}/{self._total:,} [{bar:-<{BAR}}] {done:.1%}"
        fields = [
            f"{label} {form(values[name])}{unit}" if label else f"{form(values[name])}{unit}"
            for name, label, form, unit in _FIELDS
            if name in values
        ]
        return " | ".join([head, *fields])

    def image(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """A console shows no pictures."""

    def text(self, step: int, name: str, text: str) -> None:
        """Nor texts of many lines."""

    def close(self) -> None:
        """Nothing is held open."""


class JsonlWriter:
    """One JSON object per report, appended to a file; a resumed run first drops what lies past its `first_step`."""

    def __init__(self, path: Path, first_step: int) -> None:
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= first_step]
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(f"{line}\n" for line in kept))
        partial.replace(path)
        self._file = path.open("a", buffering=1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")

    def image(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Images have files of their own."""

    def text(self, step: int, name: str, text: str) -> None:
        """Texts tell of events, which have a file of their own."""

    def close(self) -> None:
        self._file.close()


class TensorBoardWriter:
    """All of it and `charts` for `tensorboard --logdir`; a resumed run hides what lies past its `first_step`."""

    def __init__(self, directory: Path, first_step: int = 0, charts: Charts | None = None) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and needed by one rank only

        # At step 0, too: a run that was killed before its first checkpoint begins anew in the same folder.
        self._writer = SummaryWriter(str(directory), purge_step=first_step + 1)
        if charts:
            self._writer.add_custom_scalars(charts)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def image(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        self._writer.add_image(name, image, step)

    def text(self, step: int, name: str, text: str) -> None:
        self._writer.add_text(name, text, step)

    def close(self) -> None:
        self._writer.close()


def _step_of(line: str) -> float:
    """Return the step of one line of metrics; a line torn by a crash counts as past every step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _duration(hours: float) -> str:
    minutes = round(hours * 60)
    days, hours_left, minutes_left = minutes // 1440, minutes // 60 % 24, minutes % 60
    return f"{days}d {hours_left:02d}h" if days else f"{hours_left}h {minutes_left:02d}m"


# What a console line shows, in order: metric, label, format, unit.
_FIELDS = (
    (names.LOSS, "loss", "{:.4f}".format, ""),
    (names.BITS_PER_CODE_BIT, "bits/bit", "{:.4f}".format, ""),
    (names.VALIDATION_LOSS, "validation loss", "{:.4f}".format, ""),
    (names.VALIDATION_BITS_PER_CODE_BIT, "bits/bit", "{:.4f}".format, ""),
    (names.LEARNING_RATE, "lr", "{:.1e}".format, ""),
    (names.GRAD_NORM, "gnorm", "{:.2f}".format, ""),
    (names.IMAGES_PER_SECOND, "", "{:,.0f}".format, " img/s"),
    (names.MFU_PERCENT, "mfu", "{:.1f}".format, "%"),
    (names.MEMORY_GIB, "", "{:.1f}".format, " GiB"),
    (names.BUBBLE_PERCENT, "bubble", "{:.1f}".format, "%"),
    (names.DATA_WAIT_PERCENT, "data", "{:.1f}".format, "%"),
    (names.ETA_HOURS, "eta", _duration, ""),
)

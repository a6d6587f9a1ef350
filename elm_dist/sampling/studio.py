"""What a page does with a run: draws as `elm sample` and its kin do, and says the command that makes the same files.

Knows nothing of the page: `page.py` asks it, a test can, too.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from torch import Tensor

from elm_dist.config import SamplingConfig
from elm_dist.data.shards import load_manifest
from elm_dist.errors import ConfigError, ShardError
from elm_dist.sampling.canvas import CanvasSize, canvas_size, expand
from elm_dist.sampling.interpolate import class_mixtures, mixture_shares
from elm_dist.sampling.painter import check_classes, load_painter
from elm_dist.sampling.presets import load_config_to_sample
from elm_dist.sampling.requests import ImageRequest, list_requests
from elm_dist.sampling.watching import Easel, Frame

MOST = 32  # pictures at once: the batch of `elm sample`, as a matrix product rounds by the size of its batch


class Drawing(NamedTuple):
    """Pictures that are asked for; they are drawn while `frames` is read."""

    captions: list[str]  # one a picture
    columns: int | None  # pictures side by side; None = as many as there is room for
    command: str  # that makes the same files
    frames: Iterator[Frame | None]  # see `Easel.watch`
    stop: Event  # set it to end the drawing


class Studio:
    """A run's painter, which draws one thing at a time, and how it was loaded.

    Its drawings raise ConfigError for what the command of the same name would not take, and for more than `MOST`
    pictures; `settings` are some of `SamplingConfig`.
    """

    def __init__(
        self, run: Path, *, preset: str | None = None, step: int | None = None, overrides: list[str] | None = None
    ) -> None:
        """Load a run as `load_painter` does, and raise what it raises."""
        self.run, self.preset, self.overrides = run, preset, overrides or []
        self.painter = load_painter(run, preset=preset, step=step, overrides=overrides)
        self.class_names = self._class_names()
        self._easel = Easel(self.painter)

    def close(self) -> None:
        """End what is being drawn."""
        self._easel.close()

    def sample(
        self, classes: Sequence[int], per_class: float | None, seed: float | None, settings: Mapping[str, Any]
    ) -> Drawing:
        """Draw `per_class` images of each class."""
        return self._draw_classes("sample", [], self._own_size, classes, per_class, seed, settings)

    def expand(
        self,
        classes: Sequence[int],
        per_class: float | None,
        height: float | None,
        width: float | None,
        overlap: float | None,
        seed: float | None,
        settings: Mapping[str, Any],
    ) -> Drawing:
        """Draw `per_class` pictures of each class, of height x width pixels."""
        high, wide = check_count("height", height, 1), check_count("width", width, 1)
        shared = check_count("overlap", overlap, 1)
        size = canvas_size(self.painter.config.tokenizer, high, wide, shared)
        options = ["--size", f"{high}x{wide}", "--overlap", shared]
        return self._draw_classes("expand", options, size, classes, per_class, seed, settings)

    @property
    def _own_size(self) -> CanvasSize:
        """A canvas of one image of the model's."""
        return CanvasSize(*self.painter.config.tokenizer.grid, overlap=0)

    def _draw_classes(
        self,
        command: str,
        options: Sequence[object],
        size: CanvasSize,
        classes: Sequence[int],
        per_class: float | None,
        seed: float | None,
        settings: Mapping[str, Any],
    ) -> Drawing:
        labels = check_classes("classes", classes, len(self.class_names))
        if not labels:
            raise ConfigError("classes: none is chosen; choose one or more")
        count, number = check_count("images of each", per_class, 1), check_count("seed", seed, 0)
        _check_pictures(len(labels) * count, command)
        requests = list_requests(labels, count)
        options = ["--classes", ",".join(map(str, labels)), "--per-class", count, *options, "--seed", number]
        return self._draw(
            [self.class_names[request.label] for request in requests],
            len(labels) if count > 1 and len(labels) > 1 else None,
            [command, *options],
            [request.label for request in requests],
            [request.seed(number) for request in requests],
            size,
            settings,
        )

    def interpolate(
        self,
        first: int | None,
        second: int | None,
        steps: float | None,
        rows: float | None,
        seed: float | None,
        settings: Mapping[str, Any],
    ) -> Drawing:
        """Draw `rows` rows of images that go from one class to another in `steps` mixtures between the two."""
        if first is None or second is None or first == second:
            raise ConfigError("classes: choose two different ones to go from one to the other")
        check_classes("classes", (first, second), len(self.class_names))
        mixtures, count = check_count("mixtures", steps, 1), check_count("rows", rows, 1)
        number = check_count("seed", seed, 0)
        _check_pictures((mixtures + 2) * count, "interpolate")
        shares = mixture_shares(mixtures)
        one, other = self.class_names[first], self.class_names[second]
        return self._draw(
            [one, *(f"{share:.0%}" for share in shares[1:-1]), other] * count,
            len(shares),
            ["interpolate", "--between", f"{first},{second}", "--steps", mixtures, "--rows", count, "--seed", number],
            class_mixtures((first, second), shares, len(self.class_names)).repeat(count, 1),
            [ImageRequest(first, row).seed(number) for row in range(count) for _ in shares],
            self._own_size,
            settings,
        )

    def _draw(
        self,
        captions: list[str],
        columns: int | None,
        command: Sequence[object],
        labels: Sequence[int] | Tensor,
        seeds: Sequence[int],
        size: CanvasSize,
        settings: Mapping[str, Any],
    ) -> Drawing:
        sampling, changed = self._sampling(settings)
        stop = Event()
        frames = self._easel.watch(
            lambda on_progress: expand(self.painter, labels, seeds, size, sampling=sampling, on_progress=on_progress),
            size.overlap,
            stop,
        )
        return Drawing(captions, columns, self._command(command, changed), frames, stop)

    def _sampling(self, settings: Mapping[str, Any]) -> tuple[SamplingConfig, list[str]]:
        """Return the run's sampling with `settings`, and the overrides that make the one of the other."""
        own = self.painter.config.sampling
        changed = [f"sampling.{key}={value}" for key, value in settings.items() if value != getattr(own, key)]
        return load_config_to_sample(self.run, self.preset, [*self.overrides, *changed]).sampling, changed

    def _command(self, words: Sequence[object], settings: list[str]) -> str:
        """Return the command of `words`, with what this studio was opened with: none may choose another checkpoint."""
        name, *options = words
        preset = [] if self.preset is None else ["--preset", self.preset]
        command = ["elm", name, self.run, "--out", "samples", *options, "--step", self.painter.step, *preset]
        return shlex.join([*map(str, command), *self.overrides, *settings])

    def _class_names(self) -> list[str]:
        """Return a name for each class: the shards' own where these lie here, or else its number."""
        config = self.painter.config
        try:
            names = load_manifest(config.data.shards).classes
        except ShardError:
            names = ()
        numbers = range(config.model.num_classes)
        return list(names) if len(names) == len(numbers) else [f"class {number}" for number in numbers]


def _check_pictures(count: int, command: str) -> None:
    if count > MOST:
        raise ConfigError(f"{count} pictures are more than the {MOST} of a page; ask for fewer, or of `elm {command}`")


def check_count(what: str, number: float | None, least: int) -> int:
    """Return a whole number that was typed in. Raises ConfigError, naming `what`, for anything else."""
    if number is None or number < least or number != int(number):
        given = "nothing" if number is None else f"{number:g}"
        raise ConfigError(f"{what}: {given} is not allowed; give a whole number, {least} or more")
    return int(number)

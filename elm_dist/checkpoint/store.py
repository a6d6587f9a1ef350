"""Checkpoints of a run: tensors under canonical names, in pieces that any layout can read.

    checkpoints/latest                          the name of the newest one
    checkpoints/step_00010000/manifest.json     step, facts, shapes, and of each file its size, sha256 and pieces
    checkpoints/step_00010000/weights-00000.safetensors      one file per kind and rank: weights, ema, exp_avg, ...

A rank writes the pieces that it holds and reads those that it needs: none holds everything. A checkpoint appears by
one rename when all of it is on disk, and `latest` changes after that. It is read only if every file is as the manifest
says. We do not use DeepSpeed's own format: it is not atomic, unpickles, loads flipped bytes silently, and is tied to
the layout. docs/checkpoints.md has the format in full.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from elm_dist.checkpoint.commit import (
    MANIFEST,
    clear_unfinished,
    discard,
    gather_notes,
    publish,
    report_failure,
    write_rank,
)
from elm_dist.checkpoint.host_copy import HostCopy, HostPart, RankLayout, TensorSource
from elm_dist.config import CheckpointConfig
from elm_dist.errors import CheckpointError, SaveError
from elm_dist.files import sha256

log = logging.getLogger(__name__)

FORMAT = 2
PATIENCE = 600.0  # seconds that the main process waits for the files of the others, once its own are written
PATIENCE_WITH_THE_DEAD = 5.0  # the same, when the training has failed, for another process that may be gone


class Trainable(Protocol):
    """What can be saved: the part of an engine that this file needs to know."""

    @property
    def state(self) -> TensorSource: ...
    @property
    def layout(self) -> RankLayout: ...
    def barrier(self) -> None: ...
    def agree(self, here: bool) -> bool: ...


class Piece(NamedTuple):
    """Elements `start` to `stop` of a flattened tensor, under its name in `file`."""

    start: int
    stop: int
    file: str


class Checkpoint:
    """One checkpoint on disk. Raises CheckpointError where it is not what its manifest says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._readers: dict[str, Any] = {}
        try:
            manifest = json.loads((directory / MANIFEST).read_text())
            if manifest["format"] != FORMAT:
                raise CheckpointError(
                    f"{directory} has format {manifest['format']}; this version reads format {FORMAT}: use the version "
                    "of elm-dist that wrote it"
                )
            self.step: int = manifest["step"]
            self.saved: str = manifest["saved"]
            self.layout: str = manifest["layout"]
            self.facts: dict[str, Any] = manifest["facts"]
            self.files: dict[str, dict[str, Any]] = manifest["files"]
            self.shapes = {name: torch.Size(shape) for name, shape in manifest["shapes"].items()}
            self._pieces: dict[tuple[str, str], list[Piece]] = {}
            for file, entry in self.files.items():
                if Path(file).name != file:
                    raise TypeError(f"{file} is no name of a file of its folder")
                for name, (start, stop) in entry["tensors"].items():
                    self._pieces.setdefault((entry["kind"], name), []).append(Piece(start, stop, file))
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{directory / MANIFEST} is missing or damaged ({error}); delete the folder, or name another checkpoint"
            ) from None

    def verify(self, files: Iterable[str], sizes_only: bool = False) -> None:
        """Raise CheckpointError for the first of `files` whose bytes are not the ones that were written."""
        for file in files:
            path, entry = self.directory / file, self.files[file]
            whole = path.exists() and path.stat().st_size == entry["bytes"]
            if not whole or (not sizes_only and sha256(path) != entry["sha256"]):
                raise CheckpointError(
                    f"{path} is missing or damaged (its checksum is not the manifest's); restore it, or delete "
                    f"{self.directory} to go on from an older checkpoint"
                )

    def read(self, kind: str, name: str, shape: torch.Size) -> Tensor:
        """Return one tensor of the expected shape, fp32, on the CPU."""
        return self.read_span(kind, name, shape, 0, shape.numel()).view(shape)

    def read_span(self, kind: str, name: str, shape: torch.Size, start: int, stop: int) -> Tensor:
        """Return elements `start` to `stop` of a flattened tensor; reads nothing else from the disk."""
        pieces = sorted(self._pieces.get((kind, name), []))
        if sum(piece.stop - piece.start for piece in pieces) != self.shapes.get(name, shape).numel():
            raise CheckpointError(
                f"{self.directory} holds no {kind} of {name}; use the configuration that the run was trained with"
            )
        if self.shapes[name] != shape:
            raise CheckpointError(
                f"{self.directory}: {name} has shape {list(self.shapes[name])}, the configuration makes it "
                f"{list(shape)}; use the configuration that the run was trained with"
            )
        found = [piece for piece in pieces if piece.start < stop and piece.stop > start]
        parts = [
            self._reader(file).get_tensor(name).view(-1)[max(start - begin, 0) : stop - begin]
            for begin, _, file in found
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _reader(self, file: str) -> Any:
        """Return the open file, which is mapped into memory: what is not touched is not read."""
        if file not in self._readers:
            path = self.directory / file
            try:
                self._readers[file] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"{path} is not a safetensors file ({error}); restore it or use another checkpoint"
                ) from None
        return self._readers[file]


class CheckpointStore:
    """The folder `checkpoints/` of a run.

    With `config.asynchronous` a save returns when this rank's part is in host memory, and the rest happens behind: one
    save at a time. What goes wrong there is raised by the next call of `save`, `check` or `wait`. As a context it is
    left only when what was begun is written, also when the training failed.
    """

    def __init__(self, directory: Path, config: CheckpointConfig, patience: float = PATIENCE) -> None:
        self._directory = directory
        self._config = config
        self._patience = patience
        self._host_copy = HostCopy()
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self._patience = min(self._patience, PATIENCE_WITH_THE_DEAD)
        try:
            self.wait()
        except CheckpointError as unsaved:
            if error is None:
                raise
            log.error("%s", unsaved)  # what ended the training is the error to report

    def save(self, engine: Trainable, step: int, facts: dict[str, Any]) -> None:
        """Write a checkpoint of `step`; every rank calls this and writes what it holds.

        Raises SaveError if it, or the one before, cannot be written.
        """
        self._wait_for_the_one_before()
        layout, state = engine.layout, engine.state
        folder = self._directory / f".step_{step:08d}.partial"
        if layout.rank == 0:
            with self._explained(step):
                clear_unfinished(self._directory)
        engine.barrier()  # until it is cleared, and the one before committed
        parts = self._host_copy.take(state, layout)
        manifest = {
            "format": FORMAT,
            "step": step,
            "saved": datetime.now(UTC).isoformat(timespec="seconds"),
            "layout": str(layout),
            "facts": facts,
            "shapes": {name: list(state.shape(name)) for name in state.names},
        }
        self._pending = self._behind.submit(self._write, folder, parts, layout, manifest)
        if not self._config.asynchronous:
            self.wait()

    def check(self) -> None:
        """Raise the SaveError of a save that failed behind; costs nothing."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when what was begun is on disk: this rank's files, and on the main rank the whole checkpoint."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def load(self, engine: Trainable) -> Checkpoint | None:
        """Lay the newest good checkpoint over the engine and return it; None if the run has none at all yet."""
        rank, world_size = engine.layout.rank, engine.layout.world_size
        checkpoint = newest_good(self._directory, engine.agree, lambda files: files[rank::world_size])
        if checkpoint is None:
            return None
        for kind in engine.state.kinds:
            if kind not in {entry["kind"] for entry in checkpoint.files.values()}:
                raise CheckpointError(
                    f"{checkpoint.directory} has no {kind}, without which no training goes on: it is an import, or of "
                    f"another optimizer.name; begin a new run with run.init_from={self._directory.parent}"
                )
            for name in engine.state.names:
                shape = engine.state.shape(name)
                engine.state.scatter(kind, name, partial(checkpoint.read_span, kind, name, shape))
        return checkpoint

    def _wait_for_the_one_before(self) -> None:
        begin = time.monotonic()
        self.wait()
        waited = time.monotonic() - begin
        if waited > 1:
            log.warning("waited %.0f s for the checkpoint before this one; a larger checkpoint.every avoids it", waited)

    def _write(self, folder: Path, parts: list[HostPart], layout: RankLayout, manifest: dict[str, Any]) -> None:
        """Write this rank's part and, on the main rank, commit the checkpoint when all parts are there."""
        step = manifest["step"]
        try:
            with self._explained(step):
                # By every rank: on a network file system it takes a while until one sees what another made.
                folder.mkdir(parents=True, exist_ok=True)
                write_rank(folder, layout.rank, parts, manifest["shapes"])
                if layout.rank == 0:
                    files, shapes = gather_notes(folder, layout.world_size, lambda: self._patience)
                    publish(folder, self._directory / f"step_{step:08d}", manifest | {"files": files, "shapes": shapes})
                    self._prune(step)
        except SaveError as error:
            report_failure(folder, layout.rank, str(error))
            raise

    @contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        """Turn what the disk refuses into the SaveError to report."""
        try:
            yield
        except OSError as error:
            raise SaveError(
                f"{self._directory}: the checkpoint of step {step:,} cannot be written ({error.strerror or error}); "
                "make room or set run.directory to another disk, then start again: the run goes on from the last good "
                "checkpoint"
            ) from error

    def _prune(self, newest: int) -> None:
        """Delete checkpoints past the last `keep_last`, but for the first in each `keep_every` steps from there on."""
        steps, period = checkpoint_steps(self._directory), self._config.keep_every
        kept = {step // period: step for step in reversed(steps) if step >= period} if period else {}
        for step in steps[: -self._config.keep_last]:
            if step != newest and step not in kept.values():
                discard(self._directory / f"step_{step:08d}")


def newest_good(
    directory: Path,
    agree: Callable[[bool], bool] = lambda here: here,
    share: Callable[[list[str]], list[str]] = lambda files: files,
) -> Checkpoint | None:
    """Return the newest checkpoint in `directory` whose every file is intact; None where none was ever written.

    Ranks `share` the checking of the files and `agree` on the result. Raises CheckpointError if all are damaged.
    """
    steps = checkpoint_steps(directory)[::-1]
    complaints = []
    for step in steps:
        checkpoint = None
        try:
            checkpoint = Checkpoint(directory / f"step_{step:08d}")
            checkpoint.verify(share(list(checkpoint.files)))
            here = True
        except CheckpointError as error:
            log.warning("%s", error)
            complaints.append(str(error))
            here = False
        if agree(here) and checkpoint is not None:
            return checkpoint
    if steps:
        found = complaints[0] if complaints else "see the log of the other ranks"
        raise CheckpointError(f"{directory}: none of the {len(steps)} checkpoints is intact: {found}")
    return None


def checkpoint_steps(directory: Path) -> list[int]:
    """Return the steps of all checkpoints in `directory`, good or not, in order."""
    return sorted(int(path.name.removeprefix("step_")) for path in directory.glob("step_????????"))

"""Checkpoints of a run: whole tensors under canonical names, whatever layout wrote them.

    checkpoints/latest                          the name of the newest one
    checkpoints/step_00010000/manifest.json     step, facts, and of each file its size, sha256 and tensors
    checkpoints/step_00010000/weights-00000.safetensors      one file per kind and rank: weights, ema, exp_avg, ...

A checkpoint appears by one rename when all of it is on disk, and `latest` changes after that. It is read only if every
file is as the manifest says. We do not use DeepSpeed's own format: it is not atomic, unpickles, loads flipped bytes
silently, and is tied to the layout.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from elm_dist.config import CheckpointConfig
from elm_dist.errors import CheckpointError
from elm_dist.files import replace_text, sha256, sync

log = logging.getLogger(__name__)

FORMAT = 1
CHECKPOINTS = "checkpoints"  # the folder's name in a run
LATEST = "latest"
MANIFEST = "manifest.json"


class RankLayout(Protocol):
    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def replica(self) -> int: ...
    @property
    def replicas(self) -> int: ...


class TensorSource(Protocol):
    """Whole tensors, one by one; `gather` is called alike by all replicas."""

    @property
    def kinds(self) -> list[str]: ...
    @property
    def names(self) -> list[str]: ...
    def gather(self, kind: str, name: str) -> Tensor: ...
    def scatter(self, kind: str, name: str, value: Tensor) -> None: ...
    def shape(self, name: str) -> torch.Size: ...


class Trainable(Protocol):
    """What can be saved: the part of an engine that this file needs to know."""

    @property
    def state(self) -> TensorSource: ...
    @property
    def layout(self) -> RankLayout: ...
    def barrier(self) -> None: ...
    def agree(self, here: bool) -> bool: ...


class Checkpoint:
    """One checkpoint on disk. Raises CheckpointError where it is not what its manifest says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            manifest = json.loads((directory / MANIFEST).read_text())
            if manifest["format"] != FORMAT:
                raise CheckpointError(
                    f"{directory} has format {manifest['format']}; this version reads format {FORMAT}: use the version "
                    "of elm-dist that wrote it"
                )
            self.step: int = manifest["step"]
            self.facts: dict[str, Any] = manifest["facts"]
            self.files: dict[str, dict[str, Any]] = manifest["files"]
            self._where = {
                (entry["kind"], name): file for file, entry in self.files.items() for name in entry["tensors"]
            }
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{directory / MANIFEST} is missing or damaged ({error}); delete the folder, or name another checkpoint"
            ) from None

    def verify(self, files: Iterable[str]) -> None:
        """Raise CheckpointError for the first of `files` whose bytes are not the ones that were written."""
        for file in files:
            path, entry = self.directory / file, self.files[file]
            if not path.exists() or path.stat().st_size != entry["bytes"] or sha256(path) != entry["sha256"]:
                raise CheckpointError(
                    f"{path} is missing or damaged (its checksum is not the manifest's); restore it, or delete "
                    f"{self.directory} to go on from an older checkpoint"
                )

    def read(self, kind: str, name: str, shape: torch.Size) -> Tensor:
        """Return one tensor of the expected shape, fp32, on the CPU."""
        try:
            file = self._where[kind, name]
        except KeyError:
            raise CheckpointError(
                f"{self.directory} holds no {kind} of {name}; use the configuration that the run was trained with"
            ) from None
        tensor: Tensor = _open_file(self.directory / file).get_tensor(name)
        if tensor.shape != shape:
            raise CheckpointError(
                f"{self.directory}: {name} has shape {list(tensor.shape)}, the configuration makes it {list(shape)}; "
                "use the configuration that the run was trained with"
            )
        return tensor


class CheckpointStore:
    """The folder `checkpoints/` of a run."""

    def __init__(self, directory: Path, config: CheckpointConfig) -> None:
        self._directory = directory
        self._config = config

    def save(self, engine: Trainable, step: int, facts: dict[str, Any]) -> None:
        """Write a checkpoint of `step`; every rank calls this. Each tensor is written by one replica."""
        layout = engine.layout
        final, partial = self._directory / f"step_{step:08d}", self._directory / f".step_{step:08d}.partial"
        if layout.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        engine.barrier()
        entries = {}
        for kind in engine.state.kinds:
            tensors = dict(_gather_share(engine.state, kind, layout))
            if tensors:
                file = f"{kind}-{layout.rank:05d}.safetensors"
                entries[file] = _write_tensors(partial / file, kind, tensors)
        replace_text(partial / f"rank-{layout.rank:05d}.json", json.dumps(entries))
        engine.barrier()
        if layout.rank == 0:
            parts = sorted(partial.glob("rank-*.json"))
            files = {file: entry for part in parts for file, entry in json.loads(part.read_text()).items()}
            manifest = {"format": FORMAT, "step": step, "facts": facts, "files": files}
            replace_text(partial / MANIFEST, json.dumps(manifest, indent=1))
            for part in parts:
                part.unlink()
            _publish(partial, final)
            self._prune(step)
        engine.barrier()

    def load(self, engine: Trainable) -> Checkpoint | None:
        """Lay the newest good checkpoint over the engine and return it; None if the run has none at all yet."""
        rank, world_size = engine.layout.rank, engine.layout.world_size
        checkpoint = newest_good(self._directory, engine.agree, lambda files: files[rank::world_size])
        if checkpoint is None:
            return None
        for kind in engine.state.kinds:
            for name in engine.state.names:
                engine.state.scatter(kind, name, checkpoint.read(kind, name, engine.state.shape(name)))
        return checkpoint

    def _prune(self, newest: int) -> None:
        """Delete checkpoints past the last `keep_last`, but for every `keep_every`-th step; only whole folders go."""
        steps = sorted(_steps(self._directory))
        for step in steps[: -self._config.keep_last]:
            forever = self._config.keep_every and step % self._config.keep_every == 0
            if step != newest and not forever:
                shutil.rmtree(self._directory / f"step_{step:08d}")


def latest_step(directory: Path) -> int | None:
    """Return the step that `latest` names; None where there is no checkpoint yet."""
    try:
        return int((directory / LATEST).read_text().removeprefix("step_"))
    except (FileNotFoundError, ValueError):
        return None


def newest_good(
    directory: Path,
    agree: Callable[[bool], bool] = lambda here: here,
    share: Callable[[list[str]], list[str]] = lambda files: files,
) -> Checkpoint | None:
    """Return the newest checkpoint in `directory` whose every file is intact; None where none was ever written.

    Ranks `share` the checking of the files and `agree` on the result. Raises CheckpointError if all are damaged.
    """
    steps = sorted(_steps(directory), reverse=True)
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


def _gather_share(state: TensorSource, kind: str, layout: RankLayout) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that this replica writes; all replicas take part in gathering every one."""
    for index, name in enumerate(state.names):
        tensor = state.gather(kind, name)
        if index % layout.replicas == layout.replica:
            yield name, tensor.float().cpu().contiguous()


def _write_tensors(path: Path, kind: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    save_file(tensors, path)
    sync(path)
    return {"kind": kind, "bytes": path.stat().st_size, "sha256": sha256(path), "tensors": list(tensors)}


def _publish(partial: Path, final: Path) -> None:
    """Make a complete folder visible under its name, then point `latest` at it."""
    sync(partial)
    shutil.rmtree(final, ignore_errors=True)  # of a step that a resumed run reached again
    os.rename(partial, final)
    replace_text(final.parent / LATEST, final.name)
    sync(final.parent)


def _steps(directory: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in directory.glob("step_????????")]


@lru_cache(maxsize=16)
def _open_file(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file ({error}); restore it or use another checkpoint"
        ) from None

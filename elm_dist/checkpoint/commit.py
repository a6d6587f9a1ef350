"""How many ranks make one checkpoint: each writes its files and then a note of them; the main one waits for all notes,
writes the manifest, and renames the folder.

They meet in the folder alone. This runs behind the training, where a collective operation would get between those of
the next step. Knows nothing of engines.
"""

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from elm_dist.checkpoint.host_copy import HostPart
from elm_dist.checkpoint.latest import LATEST
from elm_dist.checkpoint.stream import write_safetensors
from elm_dist.errors import SaveError
from elm_dist.files import replace_text, sync

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
POLL_SECONDS = 0.1

Shapes = Mapping[str, Sequence[int]]


def write_rank(folder: Path, rank: int, parts: list[HostPart], shapes: Shapes) -> None:
    """Write this rank's files, all at once; last, when they are on disk, the note that they are there."""

    def write(part: HostPart) -> tuple[str, dict[str, Any]]:
        file = f"{part.kind}-{rank:05d}.safetensors"
        stored = {}
        for name, (start, stop) in part.spans.items():
            whole = stop - start == math.prod(shapes[name])
            stored[name] = shapes[name] if whole else [stop - start]
        written = write_safetensors(folder / file, stored, torch.float32, [part.values])
        return file, {"kind": part.kind, **written._asdict(), "tensors": part.spans}

    with ThreadPoolExecutor(max(1, len(parts))) as writers:
        files = dict(writers.map(write, parts))
    replace_text(_note(folder, rank), json.dumps({"files": files, "shapes": shapes}))


def report_failure(folder: Path, rank: int, message: str) -> None:
    """Tell the main rank not to wait for this one."""
    with suppress(OSError):  # it may be the disk that failed; then the main rank loses its patience
        replace_text(_note(folder, rank), json.dumps({"error": message}))


def gather_notes(folder: Path, world_size: int, patience: Callable[[], float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Wait for the notes of all ranks and return the files and the shapes that they name; the notes are deleted.

    Raises SaveError with the reason of a rank that failed, and with the ranks still missing after `patience()` seconds,
    which may become fewer. On a network file system a note may be seen some seconds after it was written.
    """
    begin = time.monotonic()
    notes: dict[int, dict[str, Any]] = {}
    while missing := [rank for rank in range(world_size) if rank not in notes]:
        arrived = [rank for rank in missing if _note(folder, rank).exists()]
        notes |= {rank: json.loads(_note(folder, rank).read_text()) for rank in arrived}
        for rank in arrived:
            if "error" in notes[rank]:
                raise SaveError(notes[rank]["error"])
        if not arrived and time.monotonic() > begin + patience():
            raise SaveError(
                f"{folder}: the files of rank {', '.join(map(str, missing))} did not come within {patience():g} "
                "seconds, so there is no checkpoint of this step; see to it that these processes run and that all "
                "machines share the disk of run.directory"
            )
        if not arrived:
            time.sleep(POLL_SECONDS)
    for rank in range(world_size):
        _note(folder, rank).unlink()
    in_order = [notes[rank] for rank in range(world_size)]  # so layers are named in theirs
    files = {file: entry for note in in_order for file, entry in note["files"].items()}
    shapes = {name: shape for note in in_order for name, shape in note["shapes"].items()}
    return files, shapes


def clear_unfinished(directory: Path) -> None:
    """Delete what saves that were interrupted left behind."""
    for path in directory.glob(".step_*"):
        shutil.rmtree(path)


def publish(partial: Path, final: Path, manifest: dict[str, Any]) -> None:
    """Make a complete folder a checkpoint: the manifest, then its name, then `latest`, each on disk before the next."""
    replace_text(partial / MANIFEST, json.dumps(manifest, indent=1))
    sync(partial)
    replaced = final.with_name(f".{final.name}.replaced")
    if final.exists():  # a damaged one, whose step a resumed run reached again
        final.rename(replaced)
    os.rename(partial, final)
    sync(final.parent)
    replace_text(final.parent / LATEST, final.name)
    sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def discard(folder: Path) -> None:
    """Delete a checkpoint, which first loses its name: half of one is never seen."""
    nameless = folder.with_name(f".{folder.name}.discarded")
    folder.rename(nameless)
    shutil.rmtree(nameless)


def _note(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.json"

"""Writes a set of shards, one whole shard at a time, on any number of processes that come and go.

The processes meet in the folder alone. A shard that is there has its entry of the manifest beside it, as
train-000003.json; when all are there, the main process gathers the entries into manifest.json. Knows nothing of images.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import sleep
from typing import TypeVar

import numpy as np
import webdataset
from numpy.typing import NDArray
from pydantic import ValidationError

from elm_dist.data.shards import MANIFEST, UNFINISHED, Manifest, ShardFile, Split, describe_differences, read_manifest
from elm_dist.errors import ShardError
from elm_dist.files import replace_text, replacing, sha256

logger = logging.getLogger(__name__)

SKIPPED = "skipped.json"  # the images that no shard holds, for people
POLL_SECONDS = 0.5
LOG_TURNS = 120  # a line a minute

Found = TypeVar("Found")


class ShardWriter:
    """Writes the shards of the set that `plan` describes, a manifest without files.

    Of several processes exactly one is the main one; the others wait until it has claimed the folder. Raises ShardError
    if the folder holds anything else than a part of this very set.
    """

    def __init__(self, directory: Path, plan: Manifest, *, is_main: bool = True) -> None:
        self.directory, self.plan = directory, plan
        self._intact: dict[str, ShardFile] = {}  # whose checksum was seen to be good
        if is_main:
            self._claim()
        recorded = wait_for(
            lambda: read_manifest(directory / MANIFEST) or read_manifest(directory / UNFINISHED),
            f"the main process to claim {directory}",
        )
        needed = {name: getattr(plan, name) for name in Manifest.model_fields if name != "splits"}
        differences = describe_differences(recorded, needed)
        if differences:
            raise ShardError(
                f"{directory}: the folder holds other shards ({differences}); choose another folder with --out, or "
                "remove this one"
            )

    def is_intact(self, file: str) -> bool:
        """Return whether a shard is there in full, whichever process wrote it."""
        entry, path = self._recorded(file), self.directory / file
        if entry is None:
            return False
        if entry != self._intact.get(file):
            if not path.exists() or path.stat().st_size != entry.bytes or sha256(path) != entry.sha256:
                return False
            self._intact[file] = entry
        return True

    def skipped(self, file: str) -> tuple[str, ...]:
        """Return the images that an intact shard lacks."""
        return self._intact[file].skipped

    def write(
        self, file: str, codes: NDArray[np.uint8], labels: NDArray[np.uint16], skipped: Iterable[str] = ()
    ) -> None:
        """Write one shard of codes (samples, sample_bytes) and labels (samples,), all of it or nothing.

        `skipped` names the images that are not in it, because they could not be read.
        """
        assert codes.shape == (len(labels), self.plan.sample_bytes)
        assert codes.flags.c_contiguous
        path, rows = self.directory / file, self.plan.record_rows
        if self._recorded(file):
            logger.warning("%s is missing, damaged, or lacks images that can be read now: it is made again", path)
        # mtime=0: the time of writing would make each file different
        with replacing(path) as scratch, scratch.open("wb") as stream, webdataset.TarWriter(stream, mtime=0) as tar:
            for record, start in enumerate(range(0, len(labels), rows)):
                part = slice(start, start + rows)
                tar.write({"__key__": f"{record:09d}", "cls.npy": labels[part], "codes.npy": codes[part]})
        entry = ShardFile(
            file=file,
            samples=len(labels),
            bytes=path.stat().st_size,
            sha256=sha256(path),
            skipped=tuple(sorted(set(skipped))),
        )
        replace_text(self._record_path(file), entry.model_dump_json(indent=2) + "\n")
        self._intact[file] = entry

    def finish(self, files: Mapping[Split, Sequence[str]]) -> Manifest:
        """Declare the set of these files, all of them intact, complete; only now do readers accept it."""
        splits = {split: tuple(self._intact[file] for file in files[split]) for split in files}
        manifest = self.plan.model_copy(update={"splits": splits})
        skipped = sorted({name for entries in splits.values() for entry in entries for name in entry.skipped})
        if skipped:
            replace_text(self.directory / SKIPPED, json.dumps(skipped, indent=2) + "\n")
        else:
            (self.directory / SKIPPED).unlink(missing_ok=True)
        # First the manifest, then the entries that it holds now: at no time is a shard without its entry.
        replace_text(self.directory / MANIFEST, manifest.to_json())
        for file in self._intact:
            self._record_path(file).unlink(missing_ok=True)
        (self.directory / UNFINISHED).unlink(missing_ok=True)
        return manifest

    def _claim(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if any((self.directory / name).exists() for name in (MANIFEST, UNFINISHED)):
            return
        if any(path.suffix != ".partial" for path in self.directory.iterdir()):
            raise ShardError(f"{self.directory}: the folder holds other files; choose an empty or a new one with --out")
        replace_text(self.directory / UNFINISHED, self.plan.to_json())

    def _recorded(self, file: str) -> ShardFile | None:
        """Return the entry that a shard has beside it or, as another process may have gathered it, in the manifest."""
        try:
            return ShardFile.model_validate_json(self._record_path(file).read_bytes())
        except (FileNotFoundError, ValidationError):
            manifest = read_manifest(self.directory / MANIFEST)
        entries = [entry for files in manifest.splits.values() for entry in files] if manifest else []
        return next((entry for entry in entries if entry.file == file), None)

    def _record_path(self, file: str) -> Path:
        return (self.directory / file).with_suffix(".json")


def wait_for(find: Callable[[], Found | None], what: str) -> Found:
    """Return what `find` returns as soon as that is true; say now and then that this waits for `what`."""
    turn = 0
    while True:
        if found := find():
            return found
        turn += 1
        if turn % LOG_TURNS == 0:
            logger.info("waiting for %s", what)
        sleep(POLL_SECONDS)

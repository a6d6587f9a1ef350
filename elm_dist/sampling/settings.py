"""`sampling.json`: everything that decides the images of a folder, so that they are never of two kinds.

It is there before the first image. The processes of a job meet over it: the main one writes it, the others wait.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

from elm_dist.checkpoint.convert import KINDS
from elm_dist.checkpoint.model import weights_sha256
from elm_dist.checkpoint.run_folder import choose_checkpoint
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.checkpoint.tokenizer import describe_differences, tokenizer_fingerprint
from elm_dist.config import Config
from elm_dist.errors import CheckpointError, ConfigError
from elm_dist.files import replace_text

log = logging.getLogger(__name__)

SETTINGS = "sampling.json"
POLL_SECONDS = 0.2


def claim_folder(out: Path, run: Path, config: Config, *, step: int | None, is_main: bool, **images: Any) -> Checkpoint:
    """Return the checkpoint to draw from, after `out` was found to hold nothing but images of these settings.

    It is that of `step`; or else the one that `out` was begun with, or the newest good one. The main process checks its
    bytes. `images` says which images are drawn: their seed, classes and number. Raises ConfigError where `out` holds
    anything else, CheckpointError where there is no such checkpoint.
    """
    path, weights = out / SETTINGS, config.sampling.weights
    recorded = _read(path) if is_main else _wait_for(path, config.parallel.timeout_minutes)
    if recorded is None and any(out.glob("class_*")):
        raise ConfigError(f"{out} holds images, but no {SETTINGS} that says of what; give another --out, or delete it")
    if step is None and recorded is not None:
        step = recorded["step"]
        if is_main:
            log.info("%s was begun with the checkpoint of step %s, and goes on with it", out, f"{step:,}")
    prefix = f"{KINDS[weights]}-"
    checkpoint = choose_checkpoint(run, step, lambda files: [f for f in files if is_main and f.startswith(prefix)])
    wanted = {
        "step": checkpoint.step,
        "weights_sha256": weights_sha256(checkpoint, weights),
        "tokenizer_sha256": tokenizer_fingerprint(config.tokenizer.directory),
        **{f"sampling.{key}": value for key, value in config.sampling.model_dump(mode="json").items()},
        **images,
    }
    if recorded is None:
        replace_text(path, json.dumps(wanted, indent=2) + "\n")
    elif differences := describe_differences(recorded, wanted):
        raise ConfigError(
            f"{out} holds images of other settings: {differences}; give another --out, or delete {out} to draw anew"
        )
    return checkpoint


def _read(path: Path) -> dict[str, Any] | None:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["step"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}); give another --out, or delete {path.parent}") from None
    return settings


def _wait_for(path: Path, minutes: float) -> dict[str, Any]:
    """Return what the main process writes."""
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline:
        if settings := _read(path):
            return settings
        time.sleep(POLL_SECONDS)
    raise CheckpointError(
        f"{path} did not come within {minutes:g} minutes from the main process; see why that one stopped, and that all "
        "machines share the disk of --out"
    )

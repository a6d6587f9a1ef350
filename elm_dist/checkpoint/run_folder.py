"""The folder of a run as others find it: its configuration, and the checkpoint that they want of it."""

from collections.abc import Callable
from pathlib import Path

from elm_dist.checkpoint.latest import CHECKPOINTS
from elm_dist.checkpoint.store import Checkpoint, checkpoint_steps, newest_good
from elm_dist.config import Config
from elm_dist.config_file import load_config
from elm_dist.errors import CheckpointError

CONFIG = "config.yaml"


def is_run(directory: Path) -> bool:
    return (directory / CONFIG).is_file()


def load_run_config(directory: Path) -> Config:
    """Return the configuration that a run was started with; raises CheckpointError for a folder that is no run."""
    if not is_run(directory):
        raise CheckpointError(f"{directory} is not a run: it has no {CONFIG}; give the run.directory of a training")
    return load_config(directory / CONFIG)


def check_is_new(out: Path) -> None:
    """Raise CheckpointError for a folder to write that is there and holds anything, or is a file."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} is not empty; give a new folder")


def choose_checkpoint(
    run: Path, step: int | None, share: Callable[[list[str]], list[str]] = lambda files: files
) -> Checkpoint:
    """Return the checkpoint of `step`, or the newest good one, after its files that `share` picks were checked.

    Raises CheckpointError if there is none, or if that of `step` is damaged.
    """
    directory = run / CHECKPOINTS
    steps = checkpoint_steps(directory)
    if step is not None and step in steps:
        checkpoint = Checkpoint(directory / f"step_{step:08d}")
        checkpoint.verify(share(list(checkpoint.files)))
        return checkpoint
    newest = newest_good(directory, share=share) if step is None else None
    if newest is None:
        has = f"those of steps {', '.join(map(str, steps))}" if steps else "none yet"
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise CheckpointError(f"{run} has {wanted}; it has {has}: train it further, or name one that is there")
    return newest

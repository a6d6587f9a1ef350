"""Where a run's checkpoints are, and which is the newest: for those who only want to know. Needs no torch."""

from pathlib import Path

CHECKPOINTS = "checkpoints"  # the folder's name in a run
LATEST = "latest"


def latest_step(directory: Path) -> int | None:
    """Return the step that `latest` names in a folder of checkpoints; None where there is no checkpoint yet."""
    try:
        return int((directory / LATEST).read_text().removeprefix("step_"))
    except (FileNotFoundError, ValueError):
        return None

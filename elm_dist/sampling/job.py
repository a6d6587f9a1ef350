"""What every command that draws into a folder is told, whatever it draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elm_dist.config import Config
from elm_dist.sampling.presets import load_config_to_sample


@dataclass(frozen=True)
class DrawingJob:
    """Of which run, into which folder, with which random numbers and settings."""

    run: Path
    out: Path
    seed: int = 0
    batch_size: int = 32  # images drawn together; does not change them
    preset: str | None = None
    step: int | None = None  # of the checkpoint; None = the one that `out` was begun with, or the newest good one
    overrides: Sequence[str] = ()

    def load_config(self) -> Config:
        """Return the run's configuration as it is to be sampled. Raises what `load_config_to_sample` does."""
        return load_config_to_sample(self.run, self.preset, list(self.overrides))

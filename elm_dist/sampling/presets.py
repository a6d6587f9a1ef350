"""How the paper sampled each of its models: `configs/sampling/NAME.yaml`, found by name or by the model's size.

What a run is sampled with, the later before the earlier: the run's own `sampling:`, a preset, the command line.
"""

import difflib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from elm_dist.checkpoint.run_folder import CONFIG, load_run_config
from elm_dist.config import Config, ModelConfig, SamplingConfig
from elm_dist.config_file import load_config
from elm_dist.errors import ConfigError

log = logging.getLogger(__name__)

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "sampling"


class Preset(NamedTuple):
    """One file: the model that it is for, and what of `sampling:` it sets."""

    name: str
    model: dict[str, int | str]
    sampling: dict[str, Any]

    def is_for(self, model: ModelConfig) -> bool:
        asked = {"modelling": "autoregressive"} | self.model
        return all(getattr(model, key) == value for key, value in asked.items())


def load_presets() -> dict[str, Preset]:
    """Return all presets by name."""
    files = sorted(PRESETS.glob("*.yaml"))
    return {path.stem: Preset(path.stem, **yaml.safe_load(path.read_text(encoding="utf-8"))) for path in files}


def load_config_to_sample(run: Path, preset: str | None, overrides: list[str]) -> Config:
    """Return the configuration of a run as it is to be sampled.

    Without `preset`, a run whose `sampling:` says nothing of its own gets the preset of its model, if the paper has it.
    Raises CheckpointError for a folder that is no run, ConfigError for an unknown preset or what is not allowed.
    """
    config = load_run_config(run)
    presets = load_presets()
    if preset is not None and preset not in presets:
        near = difflib.get_close_matches(preset, presets, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"--preset: there is no {preset}; {hint}there are {', '.join(presets)}")
    if preset is not None:
        chosen: Preset | None = presets[preset]
    elif config.sampling == SamplingConfig():
        chosen = next((found for found in presets.values() if found.is_for(config.model)), None)
    else:
        chosen = None
    settings = [f"sampling.{key}={value}" for key, value in chosen.sampling.items()] if chosen else []
    if chosen:
        log.info("sampling as preset %s has it: %s", chosen.name, ", ".join(settings))
    return load_config(run / CONFIG, [*settings, *overrides])

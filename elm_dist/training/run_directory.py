"""What a run's folder says about the run: `config.yaml` and `environment.json`. Read by `elm sample` and by people."""

import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from elm_dist.codes.packing import implementation
from elm_dist.config import Config
from elm_dist.config_file import dump_config
from elm_dist.files import replace_text

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"


def write_facts(directory: Path, config: Config, layout: str, device: str, kernels: str) -> None:
    """Write how this run was configured and what it runs on; a resumed run writes them again."""
    facts = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "host": platform.node(),
        "device": device,
        "layout": layout,
        "kernels": kernels,
        "bit_packing": implementation(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("elm-dist", "torch", "deepspeed", "numpy", "safetensors")},
    }
    directory.mkdir(parents=True, exist_ok=True)
    replace_text(directory / CONFIG, dump_config(config))
    replace_text(directory / ENVIRONMENT, json.dumps(facts, indent=2) + "\n")

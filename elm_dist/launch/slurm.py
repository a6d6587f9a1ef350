"""Batch jobs for SLURM: the script of a training on so many nodes, and its way into the queue.

The script is #SBATCH lines and one call. What a job does, when it is stopped or crashes, is in cluster/common.sh, which
the scripts of that folder use alike; what differs from site to site is in cluster/site.env. Knows nothing of either.
"""

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import elm_dist
from elm_dist.config_file import load_config
from elm_dist.errors import LaunchError
from elm_dist.parallel.layout import plan_layout

CLUSTER = Path(str(elm_dist.__file__)).resolve().parent.parent / "cluster"

TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}")
TASKS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*(%[1-9]\d*)?")


@dataclass(frozen=True)
class Job:
    """A training to queue: `overrides` lie over the file `config` as in `elm train`."""

    config: Path
    overrides: tuple[str, ...] = ()
    nodes: int = 1
    gpus_per_node: int = 8
    time: str = "24:00:00"  # after which SLURM ends it; it saves five minutes before and is requeued
    seeds: str | None = None  # as in 0-3 or 1,5: a run for each, all as one array

    @property
    def options(self) -> dict[str, str | None]:
        """sbatch's options; None for those without a value."""
        options = {
            "job-name": re.sub(r"[^A-Za-z0-9._-]", "_", self.config.stem),
            "nodes": str(self.nodes),
            "ntasks-per-node": str(self.gpus_per_node),
            "gres": f"gpu:{self.gpus_per_node}",
            "cpus-per-task": "8",
            "time": self.time,
            "signal": "B:USR1@300",
            "requeue": None,
            "open-mode": "append",
            "output": "%x-%j.log",
        }
        return options | ({"array": self.seeds} if self.seeds else {})


def render_script(job: Job) -> str:
    """Return the batch script of `job`, in which no word of its user's is read as bash.

    Raises ConfigError and LayoutError for a configuration that would fail on its nodes, LaunchError for a time or
    seeds that are none and where there is no cluster/ beside the package.
    """
    config = load_config(job.config, list(job.overrides))
    plan_layout(config, job.nodes * job.gpus_per_node)
    if not TIME.fullmatch(job.time):
        raise LaunchError(f"--time: '{job.time}' is no time; write it as in 24:00:00, or 2-12 (days-hours)")
    if job.seeds is not None and not TASKS.fullmatch(job.seeds):
        raise LaunchError(f"--array: '{job.seeds}' is no list of seeds; write it as in 0-3 or 1,5")
    if not (CLUSTER / "common.sh").exists():
        raise LaunchError(
            f"{CLUSTER}: there is no common.sh here, which every job needs; use a checkout of elm-dist, installed with "
            "`make` or `pip install -e .`"
        )
    overrides = list(job.overrides)
    if job.seeds and not any(override.startswith("run.directory=") for override in overrides):
        overrides.append(f"run.directory={config.run.directory}")  # common.sh lays each seed's folder into it
    lines = [f"#SBATCH --{name}" + ("" if value is None else f"={value}") for name, value in job.options.items()]
    source = shlex.join(["source", str(CLUSTER / "common.sh")])
    call = shlex.join(["run_training", str(job.config), *overrides])
    return "\n".join(["#!/usr/bin/env bash", *lines, f"{source} || exit", call, ""])


def submit_script(script: str) -> str:
    """Queue a batch script, with the site's settings where there are some, and return the job's number.

    Raises LaunchError where there is no sbatch, or with what it said where it refuses.
    """
    if shutil.which("sbatch") is None:
        raise LaunchError("there is no sbatch on this machine; log in to a cluster with SLURM, or see --dry-run")
    command = ["sbatch", "--parsable"]
    site = CLUSTER / "site.env"
    if site.exists():
        command = ["bash", "-c", 'source "$0" >&2 && exec "$@"', str(site), *command]
    result = subprocess.run(command, input=script, capture_output=True, text=True)
    if result.returncode:
        raise LaunchError(f"sbatch refused the job: {' '.join(result.stderr.split())}")
    return result.stdout.strip().partition(";")[0]  # a name of the cluster may follow

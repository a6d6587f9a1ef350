"""The study from images to its page: chooses images, runs the jobs, gathers what they found, and writes the page.

Read next: `variants.py`, `plan.py`, `jobs.py`, `results.py`, `claims.py`, `publish.py`.
"""

import logging
import os
from pathlib import Path

from elm_dist.config_file import load_config
from elm_dist.data.cifar10 import prepare_cifar10
from elm_dist.data.images import SUFFIXES
from elm_dist.study.jobs import run_jobs
from elm_dist.study.plan import StudyPlan
from elm_dist.study.publish import publish_study

log = logging.getLogger(__name__)

# Of each class. Few enough that minutes of training see each image more than once, as training in earnest does.
IMAGES = {"train": 1000, "validation": 200}


def run_study(config_path: Path, overrides: list[str], *, out: Path, page: Path, per_class: int, workers: int) -> None:
    """Run all jobs that are not done in `out`, and write figures, numbers and the page into the folder `page`.

    Raises an ElmError for a configuration that cannot be run, images that are not to be had, and a job that fails.
    """
    config = load_config(config_path, overrides)
    plan = StudyPlan(config_path, tuple(overrides), out, per_class)
    choose_images(config.tokenizer_training.images, plan.images)
    publish_study(plan, run_jobs(plan.jobs(), out, workers), page)


def choose_images(source: Path, chosen: Path) -> None:
    """Link the first images of each class of `source` from `chosen`, which is then all that the study sees."""
    if not source.exists():
        prepare_cifar10(source, Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "elm-dist", _report)
    for split, count in IMAGES.items():
        for folder in sorted(path for path in (source / split).iterdir() if path.is_dir()):
            into = chosen / split / folder.name
            into.mkdir(parents=True, exist_ok=True)
            files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
            for path in files[:count]:
                if not (into / path.name).is_symlink():
                    (into / path.name).symlink_to(path.resolve())


def _report(done: int, total: int) -> None:
    log.debug("CIFAR-10: %d of %d", done, total)

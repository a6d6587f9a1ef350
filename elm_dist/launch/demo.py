"""The whole chain on real images, by the very commands that a user would type; each stage reuses what is done already.

Knows nothing of how a stage works: it starts it, times it, and at the end holds its figures against two bars.
"""

import json
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import Progress
from rich.table import Table

import elm_dist
from elm_dist.config import Config, ImageSize
from elm_dist.config_file import load_config
from elm_dist.data.cifar10 import prepare_cifar10
from elm_dist.data.images import ImageFolder
from elm_dist.data.marginals import marginal_bits_per_code_bit
from elm_dist.data.shards import load_manifest
from elm_dist.monitoring.metrics import VALIDATION_BITS_PER_CODE_BIT
from elm_dist.parallel.environment import free_port

log = logging.getLogger(__name__)

# The bars. The trained model must need this share at most of the bits that per-bit frequencies need; and the
# reconstructions must have a squared error so many times smaller than the mean image has.
LARGEST_SHARE_OF_MARGINAL_BITS = 0.98
SMALLEST_MEAN_IMAGE_RATIO = 4.0

# As `elm evaluate --images` names them. Real images are held-out ones: the most that can be reached.
SUBJECTS, AGREEMENT, DISTANCE = ("samples", "reconstructions", "real"), "class_agreement", "FD-MobileNetV2"

FEWEST_OF_A_CLASS = 8
SCORED = 1280  # samples: as many as MobileNetV2 has features, below which their covariance says little


@dataclass(frozen=True)
class Stage:
    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


class Row(NamedTuple):
    """What one stage took and did."""

    stage: str
    seconds: float
    did: str


@dataclass(frozen=True)
class DemoReport:
    """What the demo did and found; rich prints it as a table."""

    config: Config
    rows: list[Row]
    bits: float  # validation bits per code bit of the trained model
    marginal_bits: float  # of the best model that looks at nothing
    mean_image_ratio: float
    psnr_db: float
    scores: dict[str, float]  # of `elm evaluate --images`

    @property
    def is_proven(self) -> bool:
        learned = self.bits <= LARGEST_SHARE_OF_MARGINAL_BITS * self.marginal_bits
        return learned and self.mean_image_ratio >= SMALLEST_MEAN_IMAGE_RATIO

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title="elm demo")
        for heading in ("stage", "took", "did"):
            table.add_column(heading, overflow="fold")
        for row in self.rows:
            table.add_row(row.stage, f"{row.seconds:.0f} s", row.did)
        yield table
        run = self.config.run.directory
        yield (
            f"tokenizer    {self.psnr_db:.2f} dB PSNR, {self.mean_image_ratio:.1f} times better than the mean image "
            f"(at least {SMALLEST_MEAN_IMAGE_RATIO:g} wanted)"
        )
        yield (
            f"model        {self.bits:.4f} bits per code bit on validation images; per-bit frequencies alone need "
            f"{self.marginal_bits:.4f} (at most {LARGEST_SHARE_OF_MARGINAL_BITS * self.marginal_bits:.4f} wanted)"
        )
        chance = 1 / self.config.model.num_classes
        yield f"classes      {self._compare(AGREEMENT, '{:.1%}')}: look like their class (chance: {chance:.0%})"
        yield f"distance     {self._compare(DISTANCE, '{:.0f}')}: in {DISTANCE} from real training images"
        yield f"picture      {final_samples(self.config) / 'grid.png'}"
        yield f"TensorBoard  tensorboard --logdir {run}"
        yield f"run          {run}"
        yield "proven: both bars are met" if self.is_proven else "FAILED: a bar is not met, see the figures above"

    def _compare(self, score: str, form: str) -> str:
        return ", ".join(f"{subject} {form.format(self.scores[f'{subject} {score}'])}" for subject in SUBJECTS)


def run_demo(config_path: Path, images: Path | None, overrides: list[str]) -> DemoReport:
    """Run every stage, each of which reuses what is done, and report. A failed stage ends the program likewise."""
    overrides = [*_fit_machine(load_config(config_path, overrides)), *overrides]
    if images is not None:
        overrides += _fit_images(images)
    config = load_config(config_path, overrides)
    seconds = {"images": _timed("images", partial(_prepare_images, config, images))}
    for stage in _stages(config_path, config, overrides):
        seconds[stage.name] = _timed(stage.name, partial(_run, stage))
    return _report(config, seconds)


def final_samples(config: Config) -> Path:
    return config.run.directory / "samples" / "final"


def _stages(config_path: Path, config: Config, overrides: list[str]) -> Iterator[Stage]:
    bin_directory = Path(sys.executable).parent
    elm, deepspeed = str(bin_directory / "elm"), str(bin_directory / "deepspeed")
    tokenizer, shards, run = config.tokenizer.directory, config.data.shards, config.run.directory
    yield Stage("tokenizer", [elm, "tokenizer", "train", str(config_path), *overrides])
    images = str(config.tokenizer_training.images)
    yield Stage("shards", [elm, "tokenize", "--images", images, "--tokenizer", str(tokenizer), "--out", str(shards)])
    processes = config.parallel.pipeline_stages
    threads = max(1, (os.cpu_count() or 1) // processes)
    train = [str(Path(elm_dist.__file__).parent / "train.py"), "--config", str(config_path), *overrides]
    yield Stage(
        "training",
        [deepspeed, "--quiet", "--master_port", str(free_port()), "--num_gpus", str(processes), *train],
        {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONWARNINGS": "ignore::FutureWarning",
            "DS_ACCELERATOR": "cuda" if _count_gpus(config) else "cpu",
        },
    )
    out = str(final_samples(config))
    yield Stage("samples", [elm, "sample", str(run), "--out", out, "--per-class", str(_samples_per_class(config))])
    judge = ["--images", images, "--tokenizer", str(tokenizer), "--features", "mobilenet_v2", "--batch-size", "8"]
    yield Stage("scores", [elm, "evaluate", out, *judge, "--out", str(_scores_file(config))])


def _samples_per_class(config: Config) -> int:
    """Return how many samples to draw of a class: no more than there are held-out images to hold against them."""
    classes, held_out = config.model.num_classes, load_manifest(config.data.shards).samples("validation")
    return max(FEWEST_OF_A_CLASS, min(-(-SCORED // classes), held_out // classes))


def _scores_file(config: Config) -> Path:
    return final_samples(config) / "scores.json"


def _fit_machine(config: Config) -> list[str]:
    """Return the overrides for a machine that has GPUs, but fewer than the configuration has pipeline stages."""
    gpus = _count_gpus(config)
    return [f"parallel.pipeline_stages={gpus}"] if 0 < gpus < config.parallel.pipeline_stages else []


def _count_gpus(config: Config) -> int:
    return torch.cuda.device_count() if config.parallel.device != "cpu" else 0


def _fit_images(images: Path) -> list[str]:
    """Return the overrides for a user's own images and however many classes they have."""
    classes = len(ImageFolder(images, "train", ImageSize(1, 1)).names)
    return [
        f"tokenizer_training.images={images}",
        f"model.num_classes={classes}",
        f"monitoring.sample_classes={list(range(min(classes, 10)))}",
    ]


def _prepare_images(config: Config, images: Path | None) -> None:
    if images is not None:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "elm-dist"
    with Progress(transient=True) as progress:
        task = progress.add_task("CIFAR-10")
        prepare_cifar10(
            config.tokenizer_training.images,
            cache,
            lambda done, total: progress.update(task, completed=done, total=total),
        )


def _run(stage: Stage) -> None:
    log.info("$ %s", shlex.join(stage.command))
    code = subprocess.run(stage.command, env={**os.environ, **stage.environment}).returncode
    if code != 0:
        log.error(
            "the stage `%s` failed with exit code %d; mend what it says and run the same command again",
            stage.name,
            code,
        )
        raise SystemExit(code if code > 0 else 1)


def _timed(name: str, work: Callable[[], None]) -> float:
    log.info("--- %s", name)
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def _report(config: Config, seconds: dict[str, float]) -> DemoReport:
    """Read the figures that the stages left behind."""
    score = json.loads((config.tokenizer.directory / "report.json").read_text())
    lines = (config.run.directory / "metrics.jsonl").read_text().splitlines()
    validations = [v for v in map(json.loads, lines) if VALIDATION_BITS_PER_CODE_BIT in v]
    manifest = load_manifest(config.data.shards)
    train, validation = (f"{manifest.samples(split):,} {split}" for split in ("train", "validation"))
    did = {
        "images": f"{train} and {validation} images in {config.tokenizer_training.images}",
        "tokenizer": f"{score['steps']:,} steps, {score['psnr_db']:.2f} dB, in {config.tokenizer.directory}",
        "shards": f"{train} and {validation} images as {manifest.packed_bytes} bytes each, in {config.data.shards}",
        "training": f"{validations[-1]['step']:,} steps on {config.parallel.pipeline_stages} pipeline stages",
        "samples": f"{_samples_per_class(config)} images of each of {config.model.num_classes} classes, guided by "
        f"{config.sampling.cfg_scale:g}",
        "scores": f"samples against unseen images and what the tokenizer makes of them, in {_scores_file(config)}",
    }
    return DemoReport(
        config,
        [Row(stage, took, did[stage]) for stage, took in seconds.items()],
        bits=validations[-1][VALIDATION_BITS_PER_CODE_BIT],
        marginal_bits=marginal_bits_per_code_bit(config.data.shards).train,
        mean_image_ratio=score["mean_image_ratio"],
        psnr_db=score["psnr_db"],
        scores=json.loads(_scores_file(config).read_text())["scores"],
    )

"""Trains the tokenizer on a folder of images, in one process.

    <tokenizer.directory>/
      training/        what a killed run goes on from; gone when it is done
      tensorboard/     loss, speed, scores and reconstructions
      report.json      the scores of the finished tokenizer
      config.json, model.safetensors       the tokenizer itself

Sample order, flips and the Bernoulli draws of code bits are pure functions of (seed, step): a run that was killed and
resumed gives the same tokenizer, bit for bit, as one that was not. Knows nothing of the model that reads the codes.
"""

import json
import logging
import math
import shutil
import time

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from elm_dist.checkpoint.tokenizer import check_tokenizer_fits, has_tokenizer, replace_text, save_tokenizer
from elm_dist.config import Config
from elm_dist.errors import TrainingError
from elm_dist.monitoring import metrics as names
from elm_dist.monitoring.writers import ConsoleWriter, TensorBoardWriter, Writer, Writers
from elm_dist.randomness import derive_seed
from elm_dist.tokenizers.losses import reconstruction_loss
from elm_dist.training.optimizer import scheduled_learning_rate
from elm_dist.training.tokenizer_images import Exam, load_batches
from elm_dist.training.tokenizer_state import TokenizerState, build_state, load_state, save_state

log = logging.getLogger(__name__)

CHECKPOINT_IMAGES = 256  # that each checkpoint is measured on
REPORT_IMAGES = 2048  # that the finished tokenizer is measured on


def train_tokenizer(config: Config) -> None:
    """Train the tokenizer of `config`, go on where a killed run stopped, or reuse the one that is there.

    Raises ImageError for images that cannot be used, TokenizerError if what is there is built otherwise or damaged,
    and TrainingError if there is no such device or the loss is no longer finite.
    """
    directory, training = config.tokenizer.directory, config.tokenizer_training
    if has_tokenizer(directory):
        check_tokenizer_fits(directory, config.tokenizer)
        log.info("%s: the tokenizer is trained already and is reused; delete the folder to train it anew", directory)
        return
    device = _choose_device(config)
    exam = Exam(config, device)
    state = build_state(config, device)
    load_state(directory / "training", state)
    with Monitor(config, state) as monitor:
        for images in load_batches(config, state.step, device):
            parts = update(state, images, config)
            monitor.advance(parts)
            if _is_due(state.step, training.log_every):
                monitor.report(parts)
            if _is_due(state.step, training.checkpoint_every):
                monitor.examine(exam)
                save_state(directory / "training", state)
        monitor.examine(exam)
    _finish(state, exam, config)


def update(state: TokenizerState, images: Tensor, config: Config) -> dict[str, float]:
    """Do one update on images (batch, 3, S, S) in [0, 1]; return the "loss" and its named parts.

    Raises TrainingError, before any weight changes, if the loss is not finite.
    """
    began, training = time.monotonic(), config.tokenizer_training
    draws = torch.Generator(images.device).manual_seed(derive_seed(config.run.seed, "tokenizer bits", state.step))
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.parallel.precision == "bf16"):
        reconstruction, _ = state.bae(images, draws)
    loss, parts = reconstruction_loss(reconstruction.float(), images)
    if not math.isfinite(loss.item()):
        raise TrainingError(
            f"step {state.step}: the tokenizer's loss is no longer finite; lower tokenizer_training.learning_rate, now "
            f"{training.learning_rate}, and run again to go on from the last checkpoint"
        )
    state.optimizer.zero_grad()
    loss.backward()
    for group in state.optimizer.param_groups:
        group["lr"] = _learning_rate(state.step, config)
    state.optimizer.step()
    with torch.no_grad():
        for average, weight in zip(state.average.parameters(), state.bae.parameters(), strict=True):
            average.lerp_(weight, 1 - training.ema_decay)
    state.step += 1
    state.seconds += time.monotonic() - began
    return {name: value.item() for name, value in {"loss": loss, **parts}.items()}


class Monitor:
    """Shows the training: a bar in a terminal and log lines elsewhere, numbers and pictures in TensorBoard."""

    def __init__(self, config: Config, state: TokenizerState) -> None:
        self._config, self._state, self._total = config, state, config.tokenizer_training.total_steps
        loss = TextColumn("loss {task.fields[loss]:.4f}")
        self._bar = Progress(TextColumn("tokenizer"), BarColumn(), MofNCompleteColumn(), loss, TimeRemainingColumn())
        self._bar.disable = not self._bar.console.is_terminal
        self._task = self._bar.add_task("", total=self._total, completed=state.step, loss=math.nan)
        writers: list[Writer] = [ConsoleWriter(self._total)] if self._bar.disable else []
        if config.monitoring.tensorboard:
            writers.append(TensorBoardWriter(config.tokenizer.directory / "tensorboard", state.step))
        self._writers = Writers(writers)
        self._since = (time.monotonic(), state.step)

    def __enter__(self) -> "Monitor":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._writers.close()

    def advance(self, parts: dict[str, float]) -> None:
        self._bar.update(self._task, completed=self._state.step, loss=parts["loss"])

    def report(self, parts: dict[str, float]) -> None:
        """Write the loss and its parts, the learning rate, and the speed since the last report."""
        (then, step_then), (now, step) = self._since, (time.monotonic(), self._state.step)
        self._since = (now, step)
        speed = (step - step_then) * self._config.tokenizer_training.batch_size / (now - then)
        remaining = (self._total - step) * self._config.tokenizer_training.batch_size
        values = {f"train/{name}": value for name, value in parts.items()}
        values[names.LEARNING_RATE] = _learning_rate(step - 1, self._config)
        values[names.IMAGES_PER_SECOND] = speed
        values[names.ETA_HOURS] = remaining / speed / 3600
        self._writers.write(step, values)

    def examine(self, exam: Exam) -> None:
        """Write the averaged weights' scores, and pictures beside what becomes of them."""
        score = exam.score(self._state.average, CHECKPOINT_IMAGES)
        values = {"psnr_db": score.psnr_db, "mean_image_ratio": score.mean_image_ratio}
        self._writers.write(self._state.step, {f"{exam.split}/{name}": value for name, value in values.items()})
        self._writers.image(self._state.step, "samples/reconstructions", exam.grid(self._state.average))


def _finish(state: TokenizerState, exam: Exam, config: Config) -> None:
    """Write the report, then the tokenizer, whose presence marks the end; then drop what only resuming needs."""
    directory = config.tokenizer.directory
    score = exam.score(state.average, REPORT_IMAGES)
    report = {
        "psnr_db": round(score.psnr_db, 3),
        "mean_image_ratio": round(score.mean_image_ratio, 3),
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "split": exam.split,
        "images": score.images,
    }
    directory.mkdir(parents=True, exist_ok=True)
    replace_text(directory / "report.json", json.dumps(report, indent=2) + "\n")
    save_tokenizer(directory, state.average, config.tokenizer)
    shutil.rmtree(directory / "training", ignore_errors=True)
    log.info(
        "%s: trained in %d steps; %.2f dB PSNR on %d %s images, %.1f times better than the mean image",
        *(directory, state.step, score.psnr_db, score.images, exam.split, score.mean_image_ratio),
    )


def _learning_rate(step: int, config: Config) -> float:
    training = config.tokenizer_training
    return scheduled_learning_rate(
        step, training.total_steps, training.learning_rate, training.warmup_steps, training.final_learning_rate_share
    )


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _choose_device(config: Config) -> torch.device:
    wanted, has_gpu = config.parallel.device, torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise TrainingError("parallel.device: torch sees no GPU on this machine; set parallel.device=auto or =cpu")
    return torch.device("cuda" if wanted != "cpu" and has_gpu else "cpu")

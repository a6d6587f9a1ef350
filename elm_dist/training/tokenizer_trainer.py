"""Trains the tokenizer on a folder of images, in one process.

    <tokenizer.directory>/
      training/        what a killed run goes on from; gone when it is done
      tensorboard/     loss, speed, scores and reconstructions
      report.json      the scores of the finished tokenizer
      config.json, model.safetensors       the tokenizer itself

Sample order, flips and the draws of code bits and of codebook entries are pure functions of (seed, step): a run that
was killed and resumed gives the same tokenizer, bit for bit, as one that was not. Knows nothing of the model that reads
the codes.
"""

import json
import logging
import shutil
import time

from elm_dist.checkpoint.tokenizer import check_tokenizer_fits, has_tokenizer, save_tokenizer
from elm_dist.config import Config
from elm_dist.devices import choose_device
from elm_dist.files import replace_text
from elm_dist.monitoring import metrics as names
from elm_dist.monitoring.writers import ConsoleWriter, TensorBoardWriter, Writers
from elm_dist.training.tokenizer_images import Exam, load_batches
from elm_dist.training.tokenizer_state import TokenizerState, build_state, load_state, save_state
from elm_dist.training.tokenizer_update import learning_rate, update

log = logging.getLogger(__name__)

CHECKPOINT_IMAGES = 256  # that each checkpoint is measured on
REPORT_IMAGES = 2048  # that the finished tokenizer is measured on


def train_tokenizer(config: Config) -> None:
    """Train the tokenizer of `config`, go on where a killed run stopped, or reuse the one that is there.

    Raises ImageError for images that cannot be used, TokenizerError if what is there is built otherwise or damaged, or
    if the weights of the perceptual loss are not there, and TrainingError if there is no such device or the loss is no
    longer finite.
    """
    directory = config.tokenizer.directory
    training = config.tokenizer_training
    if has_tokenizer(directory):
        check_tokenizer_fits(directory, config.tokenizer)
        log.info("%s: the tokenizer is trained already and is reused; delete the folder to train it anew", directory)
        return
    device = choose_device(config.parallel.device)
    state = build_state(config, device)
    load_state(directory / "training", state)
    exam = Exam(config, device)
    monitor = Monitor(config, state)
    for images in load_batches(config, state.step, device):
        parts = update(state, images, config)
        if _is_due(state.step, training.log_every):
            monitor.report(parts)
        if _is_due(state.step, training.checkpoint_every) or state.step == training.total_steps:
            monitor.examine(exam)
            save_state(directory / "training", state)
    monitor.close()
    _finish(state, exam, config)


class Monitor:
    """Shows the training: a line with a bar per report, and numbers and pictures in TensorBoard."""

    def __init__(self, config: Config, state: TokenizerState) -> None:
        self._config, self._state = config, state
        directory = config.tokenizer.directory / "tensorboard"
        self._tensorboard = Writers([TensorBoardWriter(directory, state.step)] if config.monitoring.tensorboard else [])
        self._writers = Writers([ConsoleWriter(config.tokenizer_training.total_steps), self._tensorboard])
        self._since = (time.monotonic(), state.step)

    def report(self, parts: dict[str, float]) -> None:
        """Write the loss and its parts, the learning rate, and the speed since the last report."""
        training, step = self._config.tokenizer_training, self._state.step
        (then, step_then), self._since = self._since, (time.monotonic(), step)
        speed = (step - step_then) * training.batch_size / (self._since[0] - then)
        values = {f"train/{name}": value for name, value in parts.items()}
        values[names.LEARNING_RATE] = learning_rate(step - 1, self._config)
        values[names.IMAGES_PER_SECOND] = speed
        values[names.ETA_HOURS] = (training.total_steps - step) * training.batch_size / speed / 3600
        self._writers.write(step, values)

    def examine(self, exam: Exam) -> None:
        """Write the averaged weights' scores, and pictures with what becomes of them."""
        step, tokenizer = self._state.step, self._state.average
        score = exam.score(tokenizer, CHECKPOINT_IMAGES)
        log.info("step %d: %.2f dB PSNR on %d %s images", step, score.psnr_db, score.images, exam.split)
        values = {"psnr_db": score.psnr_db, "mean_image_ratio": score.mean_image_ratio}
        self._tensorboard.write(step, {f"{exam.split}/{name}": value for name, value in values.items()})
        self._tensorboard.image(step, "samples/reconstructions", exam.grid(tokenizer))

    def close(self) -> None:
        self._writers.close()


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


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0

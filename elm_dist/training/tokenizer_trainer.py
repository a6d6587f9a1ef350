"""Trains the tokenizer on a folder of images, on any number of processes that share out each batch.

    <tokenizer.directory>/
      training/        what a killed run goes on from; gone when it is done
      tensorboard/     loss, speed, scores and reconstructions
      report.json      the scores of the finished tokenizer
      config.json, model.safetensors       the tokenizer itself

Sample order, flips and the draws of code bits and of codebook entries are pure functions of (seed, step, image): a run
that was killed and resumed gives the same tokenizer, bit for bit, as one that was not, and another number of processes
the same but for the order in which gradients are added up. Knows nothing of the model that reads the codes.
"""

import json
import logging
import shutil
import time

import torch

from elm_dist.checkpoint.tokenizer import check_tokenizer_fits, has_tokenizer, save_tokenizer
from elm_dist.config import Config
from elm_dist.devices import choose_device
from elm_dist.errors import LayoutError
from elm_dist.files import replace_text
from elm_dist.monitoring import metrics as names
from elm_dist.monitoring.writers import ConsoleWriter, TensorBoardWriter, Writers
from elm_dist.parallel.environment import process_environment
from elm_dist.parallel.replicas import Replicas, join_replicas
from elm_dist.training.preemption import on_stop_signal
from elm_dist.training.tokenizer_images import Exam, load_batches
from elm_dist.training.tokenizer_state import TokenizerState, build_state, load_state, save_state
from elm_dist.training.tokenizer_update import learning_rate, update

log = logging.getLogger(__name__)

CHECKPOINT_IMAGES = 256  # that each checkpoint is measured on
REPORT_IMAGES = 2048  # that the finished tokenizer is measured on


def train_tokenizer(config: Config) -> None:
    """Train the tokenizer of `config`, go on where a run stopped, or reuse the one that is there.

    Every process of a `torchrun`, `deepspeed` or `srun` calls this alike; a signal to any of them stops them all after
    a save. Raises ImageError for images that cannot be used, TokenizerError if what is there is built otherwise or
    damaged, or if the weights of the perceptual loss are not there, LayoutError if there is no such device or the
    processes cannot share a batch, and TrainingError if the loss is no longer finite.
    """
    directory = config.tokenizer.directory
    if has_tokenizer(directory):
        check_tokenizer_fits(directory, config.tokenizer)
        log.info("%s: the tokenizer is trained already and is reused; delete the folder to train it anew", directory)
        return
    environment, batch = process_environment(), config.tokenizer_training.batch_size
    if batch % environment.world_size:
        raise LayoutError(
            f"tokenizer_training.batch_size={batch} does not divide over {environment.world_size} processes; make it a "
            f"multiple of {environment.world_size}, or start another number of processes"
        )
    with join_replicas(environment, config.parallel.device, config.parallel.timeout_minutes) as replicas:
        _train(config, replicas)


def _train(config: Config, replicas: Replicas) -> None:
    device = choose_device(config.parallel.device)
    state = build_state(config, device, replicas)
    load_state(config.tokenizer.directory / "training", state)
    witness = Witness(config, state, device) if replicas.is_main else None
    is_stopped = False
    with on_stop_signal() as stop:
        for images in load_batches(config, state.step, device, replicas):
            parts = update(state, images, config, replicas)
            is_stopped = replicas.any(stop.is_made, device)
            if witness:
                witness.see(parts, is_stopped)
            if is_stopped:
                break
    if witness:
        witness.close(is_stopped)


class Witness:
    """What the main process does beside updates: reports, scores, saves and, in the end, the finished tokenizer."""

    def __init__(self, config: Config, state: TokenizerState, device: torch.device) -> None:
        self._config, self._state = config, state
        self._exam, self._monitor = Exam(config, device), Monitor(config, state)

    def see(self, parts: dict[str, float], is_stopped: bool) -> None:
        """Do what is due after an update."""
        training = self._config.tokenizer_training
        state = self._state
        if _is_due(state.step, training.log_every):
            self._monitor.report(parts)
        is_exam_due = _is_due(state.step, training.checkpoint_every) or state.step == training.total_steps
        if is_exam_due:
            self._monitor.examine(self._exam)
        if is_exam_due or is_stopped:
            save_state(self._config.tokenizer.directory / "training", state)

    def close(self, is_stopped: bool) -> None:
        self._monitor.close()
        if not is_stopped or self._state.step == self._config.tokenizer_training.total_steps:
            _finish(self._state, self._exam, self._config)
        else:
            log.info(
                "%s: stopped at step %d; the same command goes on", self._config.tokenizer.directory, self._state.step
            )


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
        if len(self._state.unused):
            is_used = self._state.unused < max(training.log_every, 1)
            values["codebook/used_percent"] = 100 * is_used.float().mean().item()  # since the last report
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

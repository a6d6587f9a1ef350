"""Trains an ELM: the loop, and what it calls in the order in which it calls it.

Nothing here knows how the model is divided over processes: the engine does.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from elm_dist.checkpoint.latest import CHECKPOINTS, latest_step
from elm_dist.checkpoint.store import CheckpointStore
from elm_dist.checkpoint.tokenizer import load_tokenizer
from elm_dist.codes.packing import implementation
from elm_dist.config import Config
from elm_dist.config_file import dump_config
from elm_dist.data.loader import MicroBatch, load_tokens
from elm_dist.devices import choose_device
from elm_dist.errors import CheckpointError
from elm_dist.launch.data_check import check_data
from elm_dist.model.cost import device_peak_flops, training_flops_per_image
from elm_dist.model.kernels import Kernels, choose_kernels
from elm_dist.monitoring import charts, metrics
from elm_dist.monitoring.clock import Clock
from elm_dist.monitoring.events import EVENTS, EventLog, append_event, faults_recorded, read_events
from elm_dist.monitoring.goodput import account, list_faults
from elm_dist.monitoring.memory import peak_memory
from elm_dist.monitoring.profiling import StepProfiler, out_of_memory_explained
from elm_dist.monitoring.watchdog import Watchdog
from elm_dist.monitoring.writers import ConsoleWriter, JsonlWriter, TensorBoardWriter, Writers
from elm_dist.parallel.build import build_engine, connect, disconnect
from elm_dist.parallel.engine import StepResult
from elm_dist.parallel.environment import ProcessEnvironment
from elm_dist.parallel.partition import partition_table, plan_stages
from elm_dist.randomness import derive_seed
from elm_dist.sampling.decode import decode_images
from elm_dist.sampling.draw import draw_codes
from elm_dist.sampling.images import enlarge, image_grid, save_png
from elm_dist.training.checkup import Checkup
from elm_dist.training.ema import Ema
from elm_dist.training.faults import faults_explained
from elm_dist.training.initial_weights import lay_initial_weights
from elm_dist.training.optimizer import build_optimizer, initial_state, scheduled_learning_rate
from elm_dist.training.preemption import on_stop_signal
from elm_dist.training.recovery import Recovery
from elm_dist.training.run_directory import write_facts
from elm_dist.training.save_interval import SaveInterval

log = logging.getLogger(__name__)


def train(config: Config, environment: ProcessEnvironment) -> None:
    """Train `config` to its end, or until a signal asks to stop; called alike on every process of the run."""
    if _is_finished(config):
        log.info("%s is finished: all %s steps are done", config.run.directory, f"{config.schedule.total_steps:,}")
        return
    check_data(config)
    kernels = choose_kernels(config, choose_device(config.parallel.device))
    directory, rank = config.run.directory, environment.rank
    with (
        on_stop_signal() as stop,
        faults_recorded(directory / EVENTS if environment.is_main else None),
        faults_explained(directory, rank),
        out_of_memory_explained(directory / "logs", rank, config.monitoring.memory_snapshot),
    ):
        connect(config, environment)
        try:
            trainer = Trainer(config, environment, kernels)
            stop.then(trainer.request_stop)
            with trainer.store:
                trainer.run()
        finally:
            disconnect()


def _is_finished(config: Config) -> bool:
    newest = latest_step(config.run.directory / CHECKPOINTS)
    return newest is not None and newest >= config.schedule.total_steps


class Trainer:
    """A run in progress: its engine, its data, and the step it is at."""

    def __init__(self, config: Config, environment: ProcessEnvironment, kernels: Kernels) -> None:
        self.config = config
        self.is_main = environment.is_main
        self.directory = config.run.directory
        self.events = EventLog(self.directory / EVENTS if self.is_main else None)
        self.loader = load_tokens(
            config,
            global_batch_size=config.schedule.global_batch_size,
            micro_batch_size=config.schedule.micro_batch_size,
            class_dropout=config.data.class_dropout,
            verify=config.data.verify,
        )
        self.engine = build_engine(
            *(config, environment, lambda named: build_optimizer(named, config.optimizer, kernels.optimizer)), kernels
        )
        self.engine.prepare_optimizer(lambda master: initial_state(master, config.optimizer))
        self.ema = Ema(self.engine.state, config.optimizer.ema_decay)
        self.store = CheckpointStore(self.directory / CHECKPOINTS, config.checkpoint)
        self.recovery = Recovery(config.health, scales_loss=config.parallel.precision == "fp16")
        self.checkup = Checkup(self.engine, config.health)
        self.step = self._resume()
        log.info("kernels: %s", kernels)
        log.info("%s", partition_table(config, plan_stages(config, self.engine.layout.parts)))
        if self.is_main:
            write_facts(self.directory, config, str(self.engine.layout), str(self.engine.device), str(kernels))
        self.writers = self._build_writers()
        self.profiler = self._build_profiler()
        self.watchdog = self._build_watchdog()
        self.save_interval = SaveInterval(config.checkpoint.mtbf_hours)
        self.clock = Clock()

    def run(self) -> None:
        """Train to the end or until asked to stop."""
        self._begin_account()
        with self.watchdog:
            stopped = self._train_steps()
        self.store.wait()
        self.events.write("stop" if stopped else "finish", self.step)
        log.info("%s at step %s: %s", "stopped" if stopped else "finished", f"{self.step:,}", self.directory)
        self.writers.close()

    def _train_steps(self) -> bool:
        """The loop, as long as it should be and without a branch on parallelism; return whether it was stopped."""
        config, total = self.config, self.config.schedule.total_steps
        stopped = False
        while self.step < total and not stopped:
            self.engine.set_learning_rate(self._learning_rate(self.step))
            self.engine.save = self.is_main and self.save_interval.is_over()
            with self.profiler.around(self.step + 1):
                result = self.engine.train_step(self.step, self._train_micro_batch)
            self.step += 1
            self.watchdog.beat(self.step)
            if not result.is_skipped:
                self.ema.update()
            self._examine(result)
            if self.recovery.must_go_back(result):
                self._go_back()
                continue
            self.store.check()
            self.clock.count(result.data_seconds)
            self.events.count(self.step, result.data_seconds)
            stopped = result.stop_requested
            if self._is_due(config.monitoring.log_every):
                self.writers.write(self.step, self._metrics(result))
            if self._is_due(config.monitoring.validation_every):
                self.writers.write(self.step, self._validate())
            if self._is_due(config.monitoring.sample_every):
                self._sample()
            if self._is_save_due(result) or self.step == total or stopped:
                self._save()
        return stopped

    def request_stop(self) -> None:
        """Make every process save and stop after the step that it is in."""
        self.engine.stop = True

    def _train_micro_batch(self, step: int, index: int) -> MicroBatch:
        return self.loader.train_micro_batch(step + self.recovery.jumped_batches, index)

    def _examine(self, result: StepResult) -> None:
        """Look for what went wrong in a step."""
        if self.recovery.is_ill(result):
            samples = self.loader.train_samples(self.step - 1 + self.recovery.jumped_batches).tolist()
            self._tell(f"step {self.step} had no finite loss or gradients: nothing was updated; samples {samples}")
        else:
            self.checkup.examine(self.step, result)

    def _go_back(self) -> None:
        """Lay the newest checkpoint over the engine, and go on with the data that come after this step's."""
        self.store.wait()
        checkpoint = self.store.load(self.engine)
        facts = checkpoint.facts if checkpoint else {}
        self.recovery.go_back(self.step, checkpoint.step if checkpoint else None, facts)
        assert checkpoint is not None
        step, self.step = self.step, checkpoint.step
        self.watchdog.beat(self.step)
        self.events.write("rollback", self.step)
        self.engine.state.set_step(self.step - self.recovery.skipped_steps)
        self.writers.close()
        self.writers = self._build_writers()
        self._tell(f"back from step {step} to the checkpoint of step {self.step}, and on with later data")

    def _tell(self, fault: str) -> None:
        """Say in the log and in TensorBoard what went wrong."""
        log.info("%s", fault)
        self.writers.text(self.step, "faults", fault)

    def _is_save_due(self, result: StepResult) -> bool:
        every = self.config.checkpoint.every
        return result.save_requested if every == "auto" else self._is_due(every)

    def _save(self) -> None:
        with self._paused(), self.events.saving(self.step):
            self.store.save(self.engine, self.step, self._facts() | self.recovery.facts)
        self.recovery.saved()
        if self.config.checkpoint.every == "auto":
            self.save_interval.saved(self.events.last_save_seconds, self.clock.step_seconds)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Leave out of the speed what is no step, and tell the watchdog when it is done."""
        with self.clock.paused():
            yield
        self.watchdog.beat(self.step)

    def _begin_account(self) -> None:
        """Note the start, and say in TensorBoard with what it is made and what ended the starts before."""
        self.events.start(self.step)
        self.writers.text(self.step, "configuration", f"```yaml\n{dump_config(self.config)}```")
        before = read_events(self.directory / EVENTS) if self.is_main else []
        self.goodput = account(before)
        if faults := list_faults(before):
            log.info("goodput so far: %s", self.goodput)
            self.writers.text(self.step, "faults", "\n".join([f"- {fault}" for fault in faults]))

    def _is_due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.schedule.total_steps)

    def _learning_rate(self, step: int) -> float:
        schedule = self.config.schedule
        return scheduled_learning_rate(
            step,
            schedule.total_steps,
            self.config.optimizer.learning_rate,
            schedule.warmup_steps,
            schedule.final_learning_rate_share,
        )

    def _resume(self) -> int:
        """Lay the newest checkpoint over the engine and return its step; 0 for a new run."""
        checkpoint = self.store.load(self.engine)
        if checkpoint is None:
            log.info("new run in %s: %s; bit packing: %s", self.directory, self.engine.layout, implementation())
            lay_initial_weights(self.engine, self.config)
            return 0
        for fact, here in self._facts(checkpoint.step).items():
            there = checkpoint.facts.get(fact)
            if there != here:
                raise CheckpointError(
                    f"{checkpoint.directory} cannot go on here: its {fact} is {there}, this run's is {here}; use "
                    "the same data, seed and global batch, or another run.directory"
                )
        self.recovery.restore(checkpoint.facts)
        self.engine.state.set_step(checkpoint.step - self.recovery.skipped_steps)
        log.info("resuming %s at step %s: %s", self.directory, f"{checkpoint.step:,}", self.engine.layout)
        return checkpoint.step

    def _facts(self, step: int | None = None) -> dict[str, Any]:
        """Return what must not change between two parts of a run for its sample order to go on."""
        step = self.step if step is None else step
        return {
            "data": self.loader.manifest.fingerprint,
            "seed": self.config.run.seed,
            "samples_seen": step * self.config.schedule.global_batch_size,
        }

    def _build_writers(self) -> Writers:
        """Return the main process's writers; all others stay silent."""
        if not self.is_main:
            return Writers()
        console = ConsoleWriter(self.config.schedule.total_steps)
        jsonl = JsonlWriter(self.directory / "metrics.jsonl", self.step)
        if not self.config.monitoring.tensorboard:
            return Writers([console, jsonl])
        return Writers([console, jsonl, TensorBoardWriter(self.directory / "tensorboard", self.step, charts.TRAINING)])

    def _build_watchdog(self) -> Watchdog:
        layout, events = self.engine.layout, self.directory / EVENTS
        return Watchdog(
            self.directory / "logs" / "hang",
            layout.rank,
            layout.world_size,
            60 * self.config.monitoring.hang_minutes,
            on_hang=lambda reason: append_event(events, "fault", reason=reason, exit_code=1),
        )

    def _build_profiler(self) -> StepProfiler:
        """Return what traces some steps of the first replica, of each stage of it."""
        monitoring = self.config.monitoring
        layout = self.engine.layout
        first = monitoring.profile_from if layout.replica == 0 else 0
        name = f"rank{layout.rank}"
        return StepProfiler(self.directory / "logs", name, first, monitoring.profile_steps, self.engine.device)

    def _metrics(self, result: StepResult) -> dict[str, float]:
        config, device = self.config, self.engine.device
        batch, remaining = config.schedule.global_batch_size, config.schedule.total_steps - self.step
        step_seconds, wait_share = self.clock.lap()
        values = {} if self.recovery.is_ill(result) else self._losses("train", result)
        values |= {
            metrics.LEARNING_RATE: self._learning_rate(self.step - 1),
            metrics.STEP_SECONDS: step_seconds,
            metrics.IMAGES_PER_SECOND: batch / step_seconds,
            metrics.DATA_WAIT_PERCENT: 100 * wait_share,
            metrics.MEMORY_GIB: peak_memory(device) / 2**30,
            metrics.BAD_SHARDS: float(self.loader.bad_shards),
            metrics.REPLACED_SAMPLES: float(self.loader.replaced_samples),
            metrics.SKIPPED_STEPS: float(self.recovery.skipped_steps),
            metrics.SPIKE_SIGMA: self.checkup.spikes.lap(),
            metrics.SAMPLES_SEEN: float(self.step * batch),
            metrics.GOODPUT_PERCENT: self.goodput.going_on(*self.events.since_start()).percent,
            metrics.ETA_HOURS: remaining * step_seconds / 3600,
        }
        if result.grad_norm is not None:
            values[metrics.GRAD_NORM] = result.grad_norm
        if result.bubble is not None:
            values[metrics.BUBBLE_PERCENT] = 100 * result.bubble
            peaks = enumerate(self.engine.peak_memory())
            values |= {metrics.stage_memory(stage): peak / 2**30 for stage, peak in peaks}
        peak = device_peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        if peak is not None:
            flops = batch * training_flops_per_image(config.model, config.tokenizer.grid)
            values[metrics.MFU_PERCENT] = 100 * flops / (step_seconds * peak * self.engine.layout.world_size)
        return values

    def _validate(self) -> dict[str, float]:
        """Measure the loss on the first samples of the validation split, a whole number of global batches of them."""
        samples = min(self.config.monitoring.validation_samples, self.loader.manifest.samples("validation"))
        steps = samples // self.config.schedule.global_batch_size
        with self._paused():
            return self._losses("validation", self.engine.evaluate(steps, self.loader.validation_micro_batch))

    def _sample(self) -> None:
        """Draw one image of each of `sample_classes` with the weights as they are, always from the same seeds."""
        config, engine = self.config, self.engine
        with self._paused():
            labels = torch.tensor(config.monitoring.sample_classes, device=engine.device)
            seeds = [derive_seed(config.run.seed, "grid", index) for index in range(len(labels))]
            codes = draw_codes(config, engine.build_decoder, labels, seeds)
            if self.is_main:
                tokenizer = load_tokenizer(config.tokenizer.directory, engine.device)
                images = decode_images(tokenizer, codes, config.model.subtoken_bits)
                grid = enlarge(image_grid(images), config.tokenizer.image_size)
                save_png(self.directory / "samples" / f"step_{self.step:08d}.png", grid)
                self.writers.image(self.step, metrics.SAMPLE_GRID, np.ascontiguousarray(grid.transpose(2, 0, 1)))

    def _losses(self, split: str, result: StepResult) -> dict[str, float]:
        return metrics.loss_metrics(split, result.head_losses, result.head_accuracies, self.config.model.subtoken_bits)

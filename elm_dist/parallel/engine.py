"""The seam between a training and its processes: what every engine is and does, whatever divides the model.

An engine computes the same micro-batches with the same randomness on any layout, and gives the same `StepResult` on
every rank; whoever holds one need not know which it is. `build.py` chooses it; `plain_engine.py` and
`pipeline_engine.py` are the engines.
"""

import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import Config
from elm_dist.errors import TrainingError
from elm_dist.model.elm import DecoderStep
from elm_dist.model.loss import CodeLoss
from elm_dist.monitoring.memory import peak_memory
from elm_dist.monitoring.stopwatch import Stopwatch
from elm_dist.parallel.layout import Layout
from elm_dist.parallel.state import OptimizerState
from elm_dist.randomness import derive_seed


class MicroBatch(Protocol):
    @property
    def codes(self) -> Tensor: ...  # (micro_batch_size, masking.row_bytes), uint8
    @property
    def labels(self) -> Tensor: ...  # (micro_batch_size,), int64


# (step, number of the micro-batch in its global batch) -> micro-batch; a pure function, so that the first stage and the
# last can both ask.
BatchSource = Callable[[int, int], MicroBatch]


@dataclass(frozen=True)
class StepResult:
    """What one step, or one evaluation, measured over the whole global batch; the same on every rank."""

    head_losses: tuple[float, ...]  # mean cross-entropy of each head, nats
    head_accuracies: tuple[float, ...]
    grad_norm: float | None  # before clipping; None where DeepSpeed does not compute it (ZeRO 0) and in evaluation
    is_skipped: bool  # gradients were not finite: no rank updated anything; in fp16 the loss scale is lower now
    stop_requested: bool  # by any rank
    save_requested: bool  # by any rank
    bubble: float | None  # share of the step's time in which ranks of a pipeline waited for each other
    data_seconds: float  # that this rank waited for its data
    forward_seconds: float  # that this rank took for its forward passes, in which it waits for nobody

    @property
    def loss(self) -> float:
        return sum(self.head_losses) / len(self.head_losses)


class Engine(ABC):
    """Trains, evaluates and samples one layout of a model. Build it with `build_engine`."""

    def __init__(self, config: Config, layout: Layout, loss: CodeLoss) -> None:
        self.layout = layout
        self.loss = loss
        self.shape: CodeShape = loss.code_shape
        self.seed = config.run.seed
        self.model_config, self.grid = config.model, config.tokenizer.grid
        self.stop = self.save = False  # set on any rank, seen by all in the next step's result
        self.state: OptimizerState
        self._deepspeed: Any
        self._data_seconds = 0.0
        self._stopwatch: Stopwatch | None = None  # of what a pipeline's rank computes
        self._forwards: Stopwatch  # of this rank's forward passes in training
        self._batches_seen = 0  # first part's less last part's, summed over micro-batches

    @property
    def device(self) -> torch.device:
        return torch.device(self._deepspeed.device)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The torch optimizer that steps this rank's share of the master weights."""
        return self._deepspeed.basic_optimizer

    def prepare_optimizer(self, initial_state: Callable[[Tensor], dict[str, Tensor]]) -> None:
        """Give every master weight its complete optimizer state now, so that a checkpoint can be laid over it."""
        self.state = OptimizerState(self._deepspeed, dict(self.named_parameters()), initial_state)

    def set_learning_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def train_step(self, step: int, source: BatchSource) -> StepResult:
        """Compute the global batch of `step` and update the weights."""
        self._begin()
        skipped = self.skipped_steps
        self._train(step, self._timed(step, source))
        is_skipped = self.skipped_steps > skipped
        norm = self._deepspeed.get_global_grad_norm()
        return self._collect(None if norm is None or is_skipped else float(norm), is_skipped)

    @property
    def skipped_steps(self) -> int:
        """Updates that did not happen since the start, because gradients were not finite on some rank."""
        return self._deepspeed.skipped_steps

    def evaluate(self, steps: int, source: BatchSource) -> StepResult:
        """Measure the loss, without dropout, over the first `steps` global batches of `source`."""
        self._begin()
        for step in range(steps):
            self._evaluate(self._timed(step, source))
        return self._collect(None)

    def peak_memory(self) -> list[float]:
        """Return the largest use of memory so far of any rank of each stage, bytes; the same on every rank."""
        peaks = torch.zeros(self.layout.stages, dtype=torch.float64, device=self.device)
        peaks[self.layout.stage] = peak_memory(self.device)
        dist.all_reduce(peaks, op=dist.ReduceOp.MAX)
        return peaks.tolist()

    def gather(self, value: float) -> list[float]:
        """Return the values of all ranks."""
        values = torch.zeros(self.layout.world_size, dtype=torch.float64, device=self.device)
        values[self.layout.rank] = value
        dist.all_reduce(values)
        return values.tolist()

    @torch.no_grad()
    def find_divergence(self) -> list[int]:
        """Return the ranks of stages whose replicas should have the same weights to the bit, and do not.

        Compares a checksum of what each rank computes with. With ZeRO 3 no two ranks hold the same.
        """
        checksums = torch.zeros(self.layout.world_size, dtype=torch.int64, device=self.device)
        for _, parameter in self.named_parameters():
            if not hasattr(parameter, "ds_id"):
                checksums[self.layout.rank] += parameter.detach().view(torch.int16).sum(dtype=torch.int64)
        dist.all_reduce(checksums)
        return [rank for group in self.layout.peers if len(set(checksums[group].tolist())) > 1 for rank in group]

    def barrier(self) -> None:
        dist.barrier()

    def agree(self, here: bool) -> bool:
        """Return whether `here` is true on every rank."""
        flag = torch.tensor(int(here), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return bool(flag.item())

    @abstractmethod
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield this rank's parameters by their canonical names."""

    @abstractmethod
    def build_decoder(self, batch: int) -> DecoderStep:
        """Return a function that gives the logits of one position after the other, on every rank of this replica."""

    @abstractmethod
    def _train(self, step: int, batches: Iterator[MicroBatch]) -> None: ...

    @abstractmethod
    def _evaluate(self, batches: Iterator[MicroBatch]) -> None: ...

    def _begin(self) -> None:
        self.loss.reset()
        self._data_seconds, self._batches_seen = 0.0, 0
        if self._stopwatch:
            self._stopwatch.reset()
        self._forwards.reset()

    def _timed(self, step: int, source: BatchSource) -> Iterator[MicroBatch]:
        """Yield this replica's micro-batches of `step` as they are asked for; stages in the middle never ask.

        The first stage embeds the codes and the last compares with them: a checksum tells whether they are the same.
        """
        sign = self.layout.has_first_part - self.layout.has_last_part
        for index in self.layout.micro_batches:
            begin = time.perf_counter()
            batch = source(step, index)
            self._data_seconds += time.perf_counter() - begin
            if sign:
                self._batches_seen += sign * _checksum(batch, index)
            yield batch

    def _dropout_seeds(self, step: int) -> list[int]:
        return [derive_seed(self.seed, "micro-batch", step, index) for index in self.layout.micro_batches]

    def _collect(self, grad_norm: float | None, is_skipped: bool = False) -> StepResult:
        """Add up what the ranks counted, in one message; raises TrainingError where stages read different batches."""
        busy, elapsed = self._stopwatch.read() if self._stopwatch else (0.0, 0.0)
        here = [float(self.stop), float(self.save), float(self._batches_seen), busy, elapsed]
        totals = torch.cat([self.loss.sums.to(self.device), self.loss.sums.new_tensor(here).to(self.device)])
        dist.all_reduce(totals)
        *sums, count, stops, saves, batches_seen, busy, elapsed = totals.tolist()
        if batches_seen:
            raise TrainingError(
                "the first and the last pipeline stage read different batches; see that data.shards holds the same "
                "files on every node"
            )
        heads = self.shape.subtokens
        losses, correct = sums[:heads], sums[heads:]
        return StepResult(
            head_losses=tuple(loss / count for loss in losses),
            head_accuracies=tuple(c / count for c in correct),
            grad_norm=grad_norm,
            is_skipped=is_skipped,
            stop_requested=stops > 0,
            save_requested=saves > 0,
            bubble=1 - busy / elapsed if elapsed else None,
            data_seconds=self._data_seconds,
            forward_seconds=self._forwards.read()[0],
        )


def _checksum(batch: MicroBatch, index: int) -> int:
    return zlib.crc32(batch.codes.numpy().tobytes() + batch.labels.numpy().tobytes(), index)

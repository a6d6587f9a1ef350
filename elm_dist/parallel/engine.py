"""Two engines behind one seam: a plain DeepSpeed engine (ZeRO 0 to 3) and DeepSpeed's pipeline engine.

Both are built from the same layer list, compute the same micro-batches with the same randomness, and give the same
`StepResult` on every rank; whoever holds an `Engine` need not know which one it is. The only importer of deepspeed.
"""

import contextlib
import io
import itertools
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.pipe import LayerSpec as DeepSpeedLayer
from deepspeed.pipe import PipelineModule
from torch import Tensor, nn

from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import Config
from elm_dist.model.cost import layer_forward_flops
from elm_dist.model.elm import ELM, Decoder, LayerSpec, code_shape, initialize, layer_specs
from elm_dist.model.head import CodeLoss
from elm_dist.model.layers import micro_batch_seed
from elm_dist.parallel.deepspeed_config import derive_deepspeed_config
from elm_dist.parallel.environment import ProcessEnvironment
from elm_dist.parallel.layout import Layout, plan_layout
from elm_dist.parallel.partition import plan_partition
from elm_dist.parallel.state import OptimizerState
from elm_dist.randomness import derive_seed


class MicroBatch(Protocol):
    @property
    def codes(self) -> Tensor: ...  # (micro_batch_size, packed_bytes), uint8
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
    stop_requested: bool  # by any rank
    data_seconds: float  # that this rank waited for its data

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
        self.hidden_size = config.model.hidden_size
        self.stop = False  # set on any rank, seen by all in the next step's result
        self.state: OptimizerState
        self._deepspeed: Any
        self._data_seconds = 0.0

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
        self._train(step, self._timed(step, source))
        norm = self._deepspeed.get_global_grad_norm()
        return self._collect(None if norm is None else float(norm))

    def evaluate(self, steps: int, source: BatchSource) -> StepResult:
        """Measure the loss, without dropout, over the first `steps` global batches of `source`."""
        self._begin()
        for step in range(steps):
            self._evaluate(self._timed(step, source))
        return self._collect(None)

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
    def build_decoder(self, batch: int) -> Callable[[Tensor, int], Tensor]:
        """Return a function that gives the logits of one position after the other, on every rank of this replica."""

    @abstractmethod
    def _train(self, step: int, batches: Iterator[MicroBatch]) -> None: ...

    @abstractmethod
    def _evaluate(self, batches: Iterator[MicroBatch]) -> None: ...

    def _begin(self) -> None:
        self.loss.reset()
        self._data_seconds = 0.0

    def _timed(self, step: int, source: BatchSource) -> Iterator[MicroBatch]:
        """Yield this replica's micro-batches of `step` as they are asked for; stages in the middle never ask."""
        for index in self.layout.micro_batches:
            begin = time.perf_counter()
            batch = source(step, index)
            self._data_seconds += time.perf_counter() - begin
            yield batch

    def _dropout_seeds(self, step: int) -> list[int]:
        return [derive_seed(self.seed, "micro-batch", step, index) for index in self.layout.micro_batches]

    def _collect(self, grad_norm: float | None) -> StepResult:
        """Add up what the last stages counted; the stop flag travels with it, so agreeing costs nothing more."""
        totals = torch.cat([self.loss.sums.to(self.device), torch.tensor([float(self.stop)], device=self.device)])
        dist.all_reduce(totals)
        *sums, count, stops = totals.tolist()
        heads = self.shape.subtokens
        losses, correct = sums[:heads], sums[heads:]
        return StepResult(
            tuple(loss / count for loss in losses),
            tuple(c / count for c in correct),
            grad_norm,
            stops > 0,
            self._data_seconds,
        )


class PlainEngine(Engine):
    """The whole model on every rank, its optimizer state (and more) divided by ZeRO."""

    def __init__(self, config: Config, layout: Layout, specs: Sequence[LayerSpec], loss: CodeLoss, build: Any) -> None:
        super().__init__(config, layout, loss)
        self.model = ELM(specs)
        initialize(self.model.named_parameters(), config.run.seed)
        self._deepspeed = _initialize(self.model, build(self.model.named_parameters()), config, layout)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.model.named_parameters()

    def build_decoder(self, batch: int) -> Callable[[Tensor, int], Tensor]:
        self.model.eval()
        return Decoder(self.model, batch).step

    def _train(self, step: int, batches: Iterator[MicroBatch]) -> None:
        self._deepspeed.train()
        for batch, seed in zip(batches, self._dropout_seeds(step), strict=True):
            with micro_batch_seed(seed):
                self._deepspeed.backward(self._forward(batch))
            self._deepspeed.step()

    def _evaluate(self, batches: Iterator[MicroBatch]) -> None:
        self._deepspeed.eval()
        with torch.no_grad():
            for batch in batches:
                self._forward(batch)

    def _forward(self, batch: MicroBatch) -> Tensor:
        codes, labels = batch.codes.to(self.device), batch.labels.to(self.device)
        return self.loss(self._deepspeed((codes, labels)), codes)


class PipelineEngine(Engine):
    """One stage of the model on every rank, scheduled by DeepSpeed (1F1B)."""

    def __init__(self, config: Config, layout: Layout, specs: Sequence[LayerSpec], loss: CodeLoss, build: Any) -> None:
        super().__init__(config, layout, loss)
        costs = layer_forward_flops(config.model, config.tokenizer.grid)
        with contextlib.redirect_stdout(io.StringIO()):  # PipelineModule prints its seeds, which we do not use
            self.stage = _Stage(specs, plan_partition(costs, layout.stages), layout.stages, loss)
        self._specs = specs
        initialize(self.named_parameters(), config.run.seed)
        self._deepspeed = _initialize(self.stage, build(self.named_parameters()), config, layout)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.stage.named_parameters():
            index, _, rest = name.partition(".")
            yield f"{self._specs[int(index)].name}.{rest}", parameter

    def build_decoder(self, batch: int) -> Callable[[Tensor, int], Tensor]:
        self.stage.eval()
        decoder = Decoder(self.stage.forward_funcs, batch)
        dtype = next(self.stage.parameters()).dtype
        layout, shape = self.layout, self.shape
        ranks = [layout.rank_of_stage(stage) for stage in range(layout.stages)]
        group = self.stage._grid.pp_proc_group

        def step(x: Tensor, position: int) -> Tensor:
            """Hand the stream from stage to stage, then the logits to all of them."""
            if not layout.is_first_stage:
                x = torch.empty((batch, 1, self.hidden_size), dtype=dtype, device=self.device)
                dist.recv(x, ranks[layout.stage - 1])
            x = decoder.step(x, position)
            if not layout.is_last_stage:
                dist.send(x, ranks[layout.stage + 1])
                x = torch.empty((batch, 1, shape.subtokens, shape.vocabulary), dtype=dtype, device=self.device)
            dist.broadcast(x, ranks[-1], group=group)
            return x

        return step

    def _train(self, step: int, batches: Iterator[MicroBatch]) -> None:
        self.stage.seeds = iter(self._dropout_seeds(step))
        self._deepspeed.train_batch(_pairs(batches))

    def _evaluate(self, batches: Iterator[MicroBatch]) -> None:
        self.stage.seeds = itertools.repeat(0)
        self._deepspeed.eval_batch(_pairs(batches))


class _Stage(PipelineModule):
    """The layers of one stage; tells dropout which micro-batch passes, as 1F1B forwards them in order."""

    seeds: Iterator[int]

    def __init__(self, specs: Sequence[LayerSpec], boundaries: list[int], stages: int, loss: CodeLoss) -> None:
        self._boundaries = boundaries
        layers = [DeepSpeedLayer(spec.module, **spec.kwargs) for spec in specs]
        super().__init__(layers, num_stages=stages, loss_fn=loss)

    def _partition_layers(self, method: str) -> None:
        """Divide by our own count of the work: DeepSpeed's 'parameters' counts the embedding, which costs none."""
        self.parts = self._boundaries
        self._set_bounds(start=self.parts[self.stage_id], stop=self.parts[self.stage_id + 1])

    def forward(self, x: Any) -> Tensor:
        with micro_batch_seed(next(self.seeds)):
            return super().forward(x)


def connect(config: Config, environment: ProcessEnvironment) -> None:
    """Join the other processes of the run (NCCL between GPUs, gloo between CPUs)."""
    environment.export()
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if deepspeed.get_accelerator().device_name() == "cpu":
        # Compiled at every start otherwise, and used by inference alone.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(timeout=timedelta(minutes=config.parallel.timeout_minutes), verbose=False)


def disconnect() -> None:
    """Leave the other processes, so that the launcher sees a clean end."""
    if dist.is_initialized():
        dist.destroy_process_group()


def build_engine(
    config: Config,
    environment: ProcessEnvironment,
    build_optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], torch.optim.Optimizer],
) -> Engine:
    """Build the engine that `config.parallel` asks for; every rank calls this after `connect`."""
    layout = plan_layout(config, environment.world_size, environment.rank)
    grid = config.tokenizer.grid
    specs = layer_specs(config.model, grid, config.parallel.checkpoint_every_blocks)
    kind = PipelineEngine if layout.stages > 1 else PlainEngine
    return kind(config, layout, specs, CodeLoss(code_shape(config.model, grid)), build_optimizer)


def _initialize(model: nn.Module, optimizer: torch.optim.Optimizer, config: Config, layout: Layout) -> Any:
    settings = derive_deepspeed_config(config, layout)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    return engine


def _pairs(batches: Iterator[MicroBatch]) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
    """Yield (inputs, targets) as DeepSpeed's pipeline wants them."""
    for batch in batches:
        yield (batch.codes, batch.labels), batch.codes

"""The engines whose ranks are stages of a pipeline. They differ in the order of the passes alone, and so not in a bit.

DeepSpeed builds the stages, holds ZeRO-1's optimizer state, adds up gradients, clips and updates; it also orders the
passes of 1F1B and DualPipeV. `zero_bubble_engine.py` orders those of ZB-V.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import tee
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.pipe import schedule as instructions
from torch import Tensor, nn

from elm_dist.config import Config
from elm_dist.model.elm import DECODERS, DecoderStep, Drawn, LayerSpec, initialize, stream_length
from elm_dist.model.loss import CodeLoss
from elm_dist.monitoring.stopwatch import Stopwatch
from elm_dist.parallel.deepspeed_config import derive_deepspeed_config
from elm_dist.parallel.engine import Engine, MicroBatch
from elm_dist.parallel.layout import Layout
from elm_dist.parallel.partition import plan_stages
from elm_dist.parallel.relay import Relay
from elm_dist.parallel.stages import FoldedStage, Stage
from elm_dist.parallel.tables import TableCourier

# What keeps a rank busy; everything else that DeepSpeed does in a step is waiting for another stage.
WORK = (
    *(instructions.ForwardPass, instructions.BackwardPass),
    *(instructions.ReduceGrads, instructions.ReduceTiedGrads, instructions.OptimizerStep),
)


class PipelineEngine(Engine):
    """One stage of the model on every rank, its passes in the order of DeepSpeed's 1F1B or DualPipeV."""

    def __init__(self, config: Config, layout: Layout, specs: Sequence[LayerSpec], loss: CodeLoss, build: Any) -> None:
        super().__init__(config, layout, loss)
        self._specs = specs
        kind = FoldedStage if layout.is_folded else Stage
        self.stage = kind(specs, plan_stages(config, layout.parts), layout, loss)
        initialize(self.named_parameters(), config.run.seed)
        self.tables = TableCourier([layer for part in self.stage.layers for layer in part], layout)
        optimizer, settings = build(self.named_parameters()), derive_deepspeed_config(config, layout)
        self._deepspeed, *_ = deepspeed.initialize(model=self.stage, optimizer=optimizer, config=settings)
        self._stopwatch, self._forwards = Stopwatch(self.device), Stopwatch(self.device)
        execute = dict(self._deepspeed._INSTRUCTION_MAP)
        for instruction in WORK:
            execute[instruction] = self._clocked(self._stopwatch, execute[instruction])
        forward = instructions.ForwardPass
        execute[forward] = self._clocked(self._forwards, execute[forward])
        self._deepspeed._INSTRUCTION_MAP = execute

    @property
    def dtype(self) -> torch.dtype:
        """Of the stream that goes from stage to stage."""
        return next(self.stage.parameters()).dtype

    @property
    def stream_shape(self) -> tuple[int, int, int]:
        """Of a micro-batch between two layers: (batch, length, hidden_size)."""
        model = self.model_config
        return self.layout.micro_batch_size, stream_length(model, self.grid), model.hidden_size

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.stage.named_parameters():
            index, _, rest = name.partition(".")
            yield f"{self._specs[int(index)].name}.{rest}", parameter

    def build_decoder(self, batch: int) -> DecoderStep:
        self.stage.eval()
        layout, model = self.layout, self.model_config
        self.tables.refresh()
        kind = DECODERS[model.modelling]
        decoders = [kind(layers, batch) for layers in self.stage.layers]
        group, last = self.stage._grid.pp_proc_group, layout.rank_of_part(layout.parts - 1)

        def share(logits: Tensor | None, rows: int, outputs: int) -> Tensor:
            """Return the last part's logits on all stages."""
            if logits is None:
                size = (rows, outputs, model.subtokens_at_once, model.vocabulary)
                logits = torch.empty(size, dtype=self.dtype, device=self.device)
            dist.broadcast(logits, last, group=group)
            return logits

        def step(x: Any, position: int, row: int = 0, outputs: int = 1) -> Tensor:
            """Hand the stream from part to part, then the logits to all stages."""
            if isinstance(x, Drawn):
                logits = decoders[-1].step(x, position) if layout.has_last_part else None
                return share(logits, len(x.subtokens), outputs)
            rows, length = len(x[0]) if isinstance(x, tuple) else len(x), decoders[0].length(x, position)
            relay = Relay(layout, (rows, length, model.hidden_size), self.dtype, self.device)
            for part, decoder in zip(layout.my_parts, decoders, strict=True):
                x = decoder.step(relay.receive(part, x), position, row, outputs)
                relay.send(part, x)
            logits = share(x if layout.has_last_part else None, rows, outputs)
            relay.wait()
            return logits

        return step

    def _train(self, step: int, batches: Iterator[MicroBatch]) -> None:
        self.tables.refresh()
        self.stage.seeds = [iter(self._dropout_seeds(step)) for _ in self.layout.my_parts]
        batches, again = tee(batches)
        self.stage.rows = (batch.codes.to(self.device) for batch in again)
        self._deepspeed.train_batch(((batch.codes, batch.labels), batch.codes) for batch in batches)

    @torch.no_grad()
    def _evaluate(self, batches: Iterator[MicroBatch]) -> None:
        """Pass all micro-batches through this rank's parts, one part after the other."""
        self.stage.eval()
        self.tables.refresh()
        layout = self.layout
        relay = Relay(layout, self.stream_shape, self.dtype, self.device)
        codes, streams = self._read(batches)
        for part, layers in zip(layout.my_parts, self.stage.layers, strict=True):
            for index in range(layout.accumulation):
                x = relay.receive(part, streams[index])
                for layer in layers:
                    x = layer(x)
                if part == layout.parts - 1:
                    self.loss(layers[-1].logits_of(x, codes[index]), codes[index])
                relay.send(part, x)
                streams[index] = x
        relay.wait()

    def _read(self, batches: Iterator[MicroBatch]) -> tuple[list[Tensor], list[Any]]:
        """Return the codes and the inputs (codes, labels) of all micro-batches; nothing in the middle."""
        if not (self.layout.has_first_part or self.layout.has_last_part):
            nothing = [None] * self.layout.accumulation
            return [], nothing
        pairs = [(batch.codes.to(self.device), batch.labels.to(self.device)) for batch in batches]
        return [codes for codes, _ in pairs], list(pairs)

    @staticmethod
    def _clocked(stopwatch: Stopwatch, execute: Callable[..., None]) -> Callable[..., None]:
        """Return one of DeepSpeed's instructions, timed."""

        def timed(engine: Any, *arguments: Any, **options: Any) -> None:
            with stopwatch.running():
                execute(engine, *arguments, **options)

        return timed

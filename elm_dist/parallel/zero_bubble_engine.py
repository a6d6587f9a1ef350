"""The pipeline engine whose passes are in the order of ZB-V.

Qi et al., "Pipeline Parallelism with Controllable Memory", NeurIPS 2024. A backward pass is two there: the gradient of
a part's input, which another stage waits for, and that of its weights, which fills what would be bubbles.
torch.distributed.pipelining has the schedule and splits the passes; DeepSpeed keeps the stages, the gradients' sums and
the optimizer, as for the other schedules.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import ScheduleZBVZeroBubble

from elm_dist.config import Config
from elm_dist.model.elm import LayerSpec
from elm_dist.model.head import CodeHead
from elm_dist.model.layers import micro_batch_seed
from elm_dist.model.loss import CodeLoss
from elm_dist.model.masking import row_bytes
from elm_dist.monitoring.stopwatch import Stopwatch
from elm_dist.parallel.engine import MicroBatch
from elm_dist.parallel.layout import Layout
from elm_dist.parallel.pipeline_engine import PipelineEngine


class ZeroBubbleEngine(PipelineEngine):
    """Two parts of the model on every rank, whose passes torch orders."""

    def __init__(self, config: Config, layout: Layout, specs: Sequence[LayerSpec], loss: CodeLoss, build: Any) -> None:
        super().__init__(config, layout, loss=loss, specs=specs, build=build)
        self._parts = [self._build_part(*part) for part in zip(layout.my_parts, self.stage.layers, strict=True)]
        head = self.stage.layers[-1][-1]  # where this rank has the last part
        # Each loss over their number, as in DeepSpeed's schedules: a sum divided afterwards would have other bits.
        self._schedule = ScheduleZBVZeroBubble(
            list(self._parts),
            layout.accumulation,
            loss_fn=lambda told, codes: loss(head.logits_of(told, codes), codes) / layout.accumulation,
            scale_grads=False,
        )

    def _train(self, step: int, batches: Iterator[MicroBatch]) -> None:
        self.stage.train()
        self.tables.refresh()
        codes, inputs = self._read(batches)
        for part in self._parts:
            part.seeds = self._dropout_seeds(step)
        arguments = [torch.cat(each) for each in zip(*inputs, strict=True)] if self.layout.has_first_part else []
        target = torch.cat(codes) if self.layout.has_last_part else None
        self._schedule.step(*arguments, target=target, return_outputs=False)
        assert self._stopwatch is not None
        with self._stopwatch.running():
            self._deepspeed._exec_reduce_grads()
            self._deepspeed._exec_optimizer_step()

    def _build_part(self, part: int, layers: Sequence[nn.Module]) -> "Part":
        """Return a part whose shapes are told: finding them out would take a forward pass, and count its loss."""
        batch = self.layout.micro_batch_size
        inputs: Any = self._example(*self.stream_shape)
        if part == 0:
            codes = torch.zeros(batch, row_bytes(self.model_config, self.shape), dtype=torch.uint8, device=self.device)
            inputs = (codes, torch.zeros(batch, dtype=torch.int64, device=self.device))
        last = layers[-1]
        size = (batch, *last.told_size) if isinstance(last, CodeHead) else self.stream_shape
        # In bf16 DeepSpeed adds each micro-batch's gradients to sums in fp32, after the pass that completes them.
        add_up = self._deepspeed.optimizer.update_hp_grads if self._deepspeed.using_bf16_optimizer else None
        assert self._stopwatch is not None
        return Part(
            *(Layers(layers), part, self.layout.parts, self.device),
            input_args=inputs,
            output_args=self._example(*size),
            group=self.stage._grid.pp_proc_group,
            stopwatch=self._stopwatch,
            forwards=self._forwards,
            add_up=(lambda: add_up(clear_lp_grads=True)) if add_up else lambda: None,
        )

    def _example(self, *size: int) -> Tensor:
        return torch.empty(size, dtype=self.dtype, device=self.device, requires_grad=True)


class Layers(nn.Module):
    """Consecutive layers, which share their parameters with the engine's stage."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Pass on the stream or, in the first part, codes and labels."""
        x: Any = inputs[0] if len(inputs) == 1 else inputs
        for layer in self.layers:
            x = layer(x)
        return x


class Part(PipelineStage):
    """A part of the model: tells dropout which micro-batch passes, and the engine when gradients are complete."""

    seeds: list[int]  # of dropout, by the number of the micro-batch

    def __init__(
        self, *arguments: Any, stopwatch: Stopwatch, forwards: Stopwatch, add_up: Callable[[], None], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._stopwatch, self._forwards, self._add_up = stopwatch, forwards, add_up

    def forward_one_chunk(self, fwd_chunk_id: int, *arguments: Any, **options: Any) -> Any:
        seed = self.seeds[fwd_chunk_id]
        with self._stopwatch.running(), self._forwards.running(), micro_batch_seed(seed):
            return super().forward_one_chunk(fwd_chunk_id, *arguments, **options)

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        with self._stopwatch.running():
            super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)
            if full_backward:
                self._add_up()

    def backward_weight_one_chunk(self, bwd_chunk_id: int, *arguments: Any, **options: Any) -> None:
        with self._stopwatch.running():
            super().backward_weight_one_chunk(bwd_chunk_id, *arguments, **options)
            self._add_up()

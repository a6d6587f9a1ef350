"""What one rank of a pipeline holds, as DeepSpeed wants it: a stage of consecutive layers, or two of them.

Both are built from the one layer list. Their forward passes tell dropout which micro-batch passes.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

from deepspeed.pipe import DualPipeVModule, PipelineModule
from deepspeed.pipe import LayerSpec as DeepSpeedLayer
from torch import Tensor

from elm_dist.model.elm import LayerSpec
from elm_dist.model.head import CodeHead
from elm_dist.model.layers import micro_batch_seed
from elm_dist.model.loss import CodeLoss
from elm_dist.parallel.layout import Layout


class Stage(PipelineModule):
    """Consecutive layers. DeepSpeed's schedules forward the micro-batches in order, each part for itself."""

    active_phase = 0  # which of the rank's parts `forward` is; DualPipeVModule changes it
    seeds: list[Iterator[int]]  # of dropout, for each part the micro-batches in order
    rows: Iterator[Tensor]  # of packed codes, the micro-batches in order: what the last part predicts

    def __init__(self, specs: Sequence[LayerSpec], boundaries: list[int], layout: Layout, loss: CodeLoss) -> None:
        self._boundaries = boundaries
        layers = [DeepSpeedLayer(spec.module, **spec.kwargs) for spec in specs]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its seeds, which we do not use
            super().__init__(layers, num_stages=layout.stages, loss_fn=loss)

    @property
    def layers(self) -> list[Sequence[Any]]:
        """The layers of each part that this rank holds, in the order of the parts."""
        return [self.forward_funcs]

    def forward(self, x: Any) -> Tensor:
        with micro_batch_seed(next(self.seeds[self.active_phase])):
            x = super().forward(x)
        last = self.layers[self.active_phase][-1]
        # Not in the loss, which has the codes, too: in bf16 DeepSpeed drops gradients of what is used after this.
        return last.logits_of(x, next(self.rows)) if isinstance(last, CodeHead) else x

    def _partition_layers(self, method: str) -> None:
        """Divide by our own count of the work: DeepSpeed's 'parameters' counts the embedding, which costs none."""
        self.parts = self._boundaries
        self._set_bounds(start=self.parts[self.stage_id], stop=self.parts[self.stage_id + 1])


class FoldedStage(DualPipeVModule, Stage):
    """Two parts, one on the way down the stages and one on the way up; DualPipeVModule asks Stage for each."""

    @property
    def layers(self) -> list[Sequence[Any]]:
        return list(self.phase_funcs)

"""The engine without a pipeline: the whole model on every rank, or with ZeRO 3 a part of each layer of it."""

from collections.abc import Iterator, Sequence
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from elm_dist.config import Config
from elm_dist.model.elm import DECODERS, ELM, DecoderStep, LayerSpec, initialize
from elm_dist.model.head import MaskedHead
from elm_dist.model.layers import micro_batch_seed
from elm_dist.model.loss import CodeLoss
from elm_dist.monitoring.stopwatch import Stopwatch
from elm_dist.parallel.deepspeed_config import derive_deepspeed_config
from elm_dist.parallel.engine import Engine, MicroBatch
from elm_dist.parallel.layout import Layout


class PlainEngine(Engine):
    """Every replica computes all layers; ZeRO divides the optimizer state between them, and more."""

    def __init__(self, config: Config, layout: Layout, specs: Sequence[LayerSpec], loss: CodeLoss, build: Any) -> None:
        super().__init__(config, layout, loss)
        settings = derive_deepspeed_config(config, layout)
        self.model = _build_model(config, specs, settings)
        optimizer = build(self.model.named_parameters())
        self._skipped = 0  # with ZeRO 0, where DeepSpeed would apply whatever gradients there are
        if config.parallel.zero_stage == 0:
            optimizer.register_step_pre_hook(self._skip_unless_finite)
        self._deepspeed, *_ = deepspeed.initialize(model=self.model, optimizer=optimizer, config=settings)
        self._forwards = Stopwatch(self.device)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.model.named_parameters()

    def build_decoder(self, batch: int) -> DecoderStep:
        self.model.eval()
        return DECODERS[self.model_config.modelling](self.model, batch).step

    def _train(self, step: int, batches: Iterator[MicroBatch]) -> None:
        self._deepspeed.train()
        for batch, seed in zip(batches, self._dropout_seeds(step), strict=True):
            with micro_batch_seed(seed):
                with self._forwards.running():
                    loss = self._forward(batch)
                self._deepspeed.backward(loss)
            self._deepspeed.step()

    @property
    def skipped_steps(self) -> int:
        return self._skipped + super().skipped_steps

    def _skip_unless_finite(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Take the gradients away, which leaves weights as they are. They are averaged: all ranks decide alike."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not torch.stack(torch._foreach_norm([p.grad for p in parameters])).sum().isfinite():
            self._skipped += 1
            for parameter in parameters:
                parameter.grad = None

    def _evaluate(self, batches: Iterator[MicroBatch]) -> None:
        self._deepspeed.eval()
        with torch.no_grad():
            for batch in batches:
                self._forward(batch)

    def _forward(self, batch: MicroBatch) -> Tensor:
        codes, labels = batch.codes.to(self.device), batch.labels.to(self.device)
        return self.loss(self._deepspeed((codes, labels)), codes)


def _build_model(config: Config, specs: Sequence[LayerSpec], settings: dict[str, Any]) -> ELM:
    """Return the model with its first weights; with ZeRO 3 no rank ever holds all of it.

    There a layer is divided as soon as it is built, and the main rank draws one tensor after the other for all.
    """
    is_divided = config.parallel.zero_stage == 3
    with deepspeed.zero.Init(config_dict_or_path=settings, enabled=is_divided):
        model = ELM(specs)
    head = model[-1]
    if is_divided and isinstance(head, MaskedHead):
        for table in head.tables():  # which are the embedding's, and must be gathered for the head, too
            deepspeed.zero.register_external_parameter(head, table)
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=is_divided):
            if not is_divided or dist.get_rank() == 0:
                initialize([(name, parameter)], config.run.seed)
    return model

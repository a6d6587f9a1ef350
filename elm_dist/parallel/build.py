"""Joins the processes of a run and chooses its engine. Everything above this file talks to `engine.Engine` alone."""

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from elm_dist.config import Config
from elm_dist.errors import LayoutError
from elm_dist.model.elm import code_shape, layer_specs
from elm_dist.model.kernels import PLAIN, Kernels
from elm_dist.model.loss import build_loss
from elm_dist.parallel.engine import Engine
from elm_dist.parallel.environment import ProcessEnvironment
from elm_dist.parallel.layout import plan_layout
from elm_dist.parallel.pipeline_engine import PipelineEngine
from elm_dist.parallel.plain_engine import PlainEngine
from elm_dist.parallel.zero_bubble_engine import ZeroBubbleEngine

log = logging.getLogger(__name__)

ENGINES = {"1f1b": PipelineEngine, "dualpipev": PipelineEngine, "zbv": ZeroBubbleEngine}


def connect(config: Config, environment: ProcessEnvironment) -> None:
    """Join the other processes of the run (NCCL between GPUs, gloo between CPUs).

    Raises LayoutError for a precision that the device does not have.
    """
    accelerator = deepspeed.get_accelerator()
    if config.parallel.precision == "fp16" and not accelerator.is_fp16_supported():
        raise LayoutError(
            f"parallel.precision=fp16, but this {accelerator.device_name()} does not train in fp16; set "
            "parallel.precision=bf16 or =fp32"
        )
    environment.export()
    log.info("process %d of %d, as %s says", environment.rank, environment.world_size, environment.source)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if accelerator.device_name() == "cpu":
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
    kernels: Kernels = PLAIN,
) -> Engine:
    """Build the engine that `config.parallel` asks for; every rank calls this after `connect`."""
    layout = plan_layout(config, environment.world_size, environment.rank)
    grid = config.tokenizer.grid
    specs = layer_specs(config.model, grid, config.parallel.checkpoint_every_blocks, kernels)
    loss = build_loss(config.model, code_shape(config.model, grid), config.loss)
    kind = ENGINES[layout.schedule] if layout.stages > 1 else PlainEngine
    return kind(config, layout, specs, loss, build_optimizer)

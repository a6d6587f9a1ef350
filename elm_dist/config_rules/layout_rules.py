"""What goes with what in the layout over processes, the batch and the kernels."""

from collections.abc import Iterator

from elm_dist.config import KernelsConfig, ModelConfig, OptimizerConfig, ParallelConfig, ScheduleConfig
from elm_dist.config_rules.registry import Problem, rule


@rule("schedule")
def _batch_divides(schedule: ScheduleConfig) -> Iterator[Problem]:
    if schedule.global_batch_size % schedule.micro_batch_size:
        yield (
            "schedule.global_batch_size",
            f"{schedule.global_batch_size} images are no multiple of micro_batch_size {schedule.micro_batch_size}; "
            "choose a multiple of it",
        )


@rule("parallel", "model")
def _stages_fit(parallel: ParallelConfig, model: ModelConfig) -> Iterator[Problem]:
    each = _parts_of_a_stage(parallel)
    if parallel.pipeline_stages * each > model.num_layers:
        blocks = "one block" if each == 1 else f"two blocks with parallel.schedule={parallel.schedule}"
        yield (
            "parallel.pipeline_stages",
            f"{parallel.pipeline_stages} stages need at least {blocks} each, but model.num_layers is "
            f"{model.num_layers}; use at most {model.num_layers // each} stages",
        )


def _parts_of_a_stage(parallel: ParallelConfig) -> int:
    return 2 if parallel.pipeline_stages > 1 and parallel.schedule in ("dualpipev", "zbv") else 1


@rule("parallel", "model")
def _boundaries_fit(parallel: ParallelConfig, model: ModelConfig) -> Iterator[Problem]:
    boundaries, head = parallel.stage_boundaries, model.num_layers + 1
    stages = parallel.pipeline_stages * _parts_of_a_stage(parallel)
    if boundaries and parallel.schedule == "auto":
        yield (
            "parallel.stage_boundaries",
            "parallel.schedule=auto may give a stage one part of the model or two; name the schedule, or set [] to "
            "divide by cost",
        )
    elif boundaries and len(boundaries) != stages - 1:
        yield (
            "parallel.stage_boundaries",
            f"{stages} stages have {stages - 1} boundaries, not {len(boundaries)}; give the first layer of each stage "
            "after the first, or [] to divide by cost",
        )
    elif list(boundaries) != sorted(set(boundaries)) or any(boundary > head for boundary in boundaries):
        yield (
            "parallel.stage_boundaries",
            f"{list(boundaries)} would leave a stage empty; give increasing layers from 1, the first block, to {head}, "
            "the head, or [] to divide by cost",
        )


@rule("parallel")
def _engines_fit(parallel: ParallelConfig) -> Iterator[Problem]:
    if parallel.pipeline_stages > 1 and parallel.zero_stage != 1:
        yield (
            "parallel.zero_stage",
            f"a pipeline goes with ZeRO stage 1 alone, not {parallel.zero_stage} (2 and 3 split gradients that the "
            "pipeline still accumulates, 0 clips them wrongly); set parallel.zero_stage=1, or "
            "parallel.pipeline_stages=1",
        )
    elif parallel.precision != "fp32" and parallel.zero_stage == 0:
        yield (
            "parallel.zero_stage",
            f"{parallel.precision} needs the fp32 master weights that ZeRO keeps, and DeepSpeed's stage 0 miscounts "
            "Adam's steps; set parallel.zero_stage=1 or parallel.precision=fp32",
        )


@rule("parallel")
def _offload_fits(parallel: ParallelConfig) -> Iterator[Problem]:
    if "optimizer" in parallel.offload and (parallel.pipeline_stages > 1 or parallel.zero_stage == 0):
        yield (
            "parallel.offload",
            "the optimizer's state leaves the GPU with ZeRO 1 to 3 and without a pipeline; set parallel.offload=[], or "
            "parallel.pipeline_stages=1 and parallel.zero_stage=1",
        )
    if "parameters" in parallel.offload and (parallel.zero_stage != 3 or "optimizer" not in parallel.offload):
        yield (
            "parallel.offload",
            "parameters leave the GPU with ZeRO 3 alone, and the optimizer's state with them; set "
            "parallel.zero_stage=3 and parallel.offload=[optimizer, parameters]",
        )


@rule("parallel", "kernels")
def _zero_bubble_fits(parallel: ParallelConfig, kernels: KernelsConfig) -> Iterator[Problem]:
    """ZB-V computes the gradients of a part's input and of its weights in two passes of plain autograd."""
    if parallel.pipeline_stages == 1 or parallel.schedule != "zbv":
        return
    for setting, off, is_on in (
        ("parallel.precision=fp16", "parallel.precision=bf16", parallel.precision == "fp16"),
        ("parallel.checkpoint_every_blocks", "it to 0", parallel.checkpoint_every_blocks > 0),
        ("kernels.compile_blocks", "it to false", kernels.compile_blocks),
    ):
        if is_on:
            yield (
                "parallel.schedule",
                f"zbv splits the backward pass, which does not go with {setting}; set {off}, or parallel.schedule=1f1b",
            )


@rule("kernels", "parallel")
def _fused_kernels_have_a_gpu(kernels: KernelsConfig, parallel: ParallelConfig) -> Iterator[Problem]:
    for part, wanted in (("attention", kernels.attention), ("norm", kernels.norm), ("optimizer", kernels.optimizer)):
        if wanted in ("flash", "apex") and parallel.device == "cpu":
            yield (
                f"kernels.{part}",
                f"{wanted} computes on a GPU, but parallel.device is cpu; set kernels.{part}=auto, or "
                "parallel.device=cuda",
            )


@rule("kernels", "parallel")
def _flash_fits(kernels: KernelsConfig, parallel: ParallelConfig) -> Iterator[Problem]:
    if kernels.attention == "flash" and parallel.precision == "fp32":
        yield (
            "kernels.attention",
            "flash computes in bf16 or fp16, but parallel.precision is fp32; set kernels.attention=auto, or "
            "parallel.precision=bf16",
        )


@rule("kernels", "optimizer", "parallel")
def _apex_optimizer_fits(
    kernels: KernelsConfig, optimizer: OptimizerConfig, parallel: ParallelConfig
) -> Iterator[Problem]:
    if kernels.optimizer != "apex":
        return
    if optimizer.name != "adamw":
        yield (
            "kernels.optimizer",
            f"apex has no {optimizer.name}; set kernels.optimizer=auto, or optimizer.name=adamw",
        )
    if parallel.zero_stage == 3:
        yield (
            "kernels.optimizer",
            "apex counts the updates of a whole group of weights, but ZeRO 3 steps groups in parts; set "
            "kernels.optimizer=auto, or parallel.zero_stage=2",
        )
    elif "optimizer" in parallel.offload:
        yield (
            "kernels.optimizer",
            "apex computes on a GPU, but parallel.offload keeps the optimizer's state in main memory; set "
            "kernels.optimizer=auto, or parallel.offload=[]",
        )


@rule("kernels", "parallel")
def _compiled_blocks_hold_their_weights(kernels: KernelsConfig, parallel: ParallelConfig) -> Iterator[Problem]:
    if kernels.compile_blocks and parallel.zero_stage == 3:
        yield (
            "kernels.compile_blocks",
            "ZeRO 3 gathers weights from within the block, which breaks what is compiled into pieces; set "
            "kernels.compile_blocks=false, or parallel.zero_stage=2",
        )

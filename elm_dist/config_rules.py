"""What goes with what in a configuration, and the remedy for what does not.

Each rule reads the sections that it names and yields (path, message with the remedy) for what it refuses.
"""

from collections.abc import Callable, Iterator
from typing import Any

from elm_dist.config import (
    KernelsConfig,
    LossConfig,
    ModelConfig,
    MonitoringConfig,
    OptimizerConfig,
    ParallelConfig,
    SamplingConfig,
    ScheduleConfig,
    TokenizerConfig,
    TokenizerTrainingConfig,
)

Problem = tuple[str, str]
Rule = Callable[..., Iterator[Problem]]
RULES: list[tuple[tuple[str, ...], Rule]] = []


def rule(*sections: str) -> Callable[[Rule], Rule]:
    def register(check: Rule) -> Rule:
        RULES.append((sections, check))
        return check

    return register


@rule("model", "tokenizer")
def _codes_split_evenly(model: ModelConfig, tokenizer: TokenizerConfig) -> Iterator[Problem]:
    bits = model.subtokens * model.subtoken_bits
    if bits != tokenizer.code_bits:
        yield (
            "model.subtoken_bits",
            f"{model.subtokens} sub-tokens x {model.subtoken_bits} bits = {bits} bits, but tokenizer.code_bits is "
            f"{tokenizer.code_bits}; make the product equal, or set tokenizer.code_bits={bits}",
        )


@rule("model")
def _heads_fit(model: ModelConfig) -> Iterator[Problem]:
    if model.hidden_size % model.num_heads:
        yield (
            "model.num_heads",
            f"{model.num_heads} heads do not divide hidden_size {model.hidden_size}; choose a divisor of it",
        )
    elif model.key_value_heads and model.num_heads % model.key_value_heads:
        yield (
            "model.key_value_heads",
            f"{model.key_value_heads} heads of keys and values cannot be shared evenly by {model.num_heads} heads; "
            "choose a divisor of model.num_heads, or 0 for one each",
        )
    elif model.position_encoding == "rope_2d" and model.head_size % 4:
        yield (
            "model.num_heads",
            f"a head of {model.head_size} channels cannot be rotated in two dimensions; choose num_heads so that "
            "hidden_size / num_heads is a multiple of 4",
        )
    elif model.position_encoding == "rope_1d" and model.head_size % 2:
        yield (
            "model.num_heads",
            f"a head of {model.head_size} channels cannot be rotated in pairs; choose num_heads so that hidden_size / "
            "num_heads is even",
        )


@rule("model")
def _variants_go_together(model: ModelConfig) -> Iterator[Problem]:
    if model.modelling == "masked" and model.scan != "row_raster":
        yield (
            "model.scan",
            f"a masked model sees all codes at once, in no order, and so not in that of {model.scan}; set "
            "model.scan=row_raster, or model.modelling=autoregressive",
        )
    if model.position_encoding == "learned" and model.rope_grid:
        yield (
            "model.rope_grid",
            "learned positions are not rotary ones, which can be squeezed; set model.rope_grid=0, or "
            "model.position_encoding=rope_2d",
        )
    if model.attention == "cosine" and model.qk_norm:
        yield (
            "model.qk_norm",
            "a cosine has normed queries and keys already; set model.qk_norm=false, or model.attention=dot_product",
        )


@rule("loss", "model")
def _soft_labels_fit(loss: LossConfig, model: ModelConfig) -> Iterator[Problem]:
    if loss.hamming_distance > model.subtoken_bits:
        yield (
            "loss.hamming_distance",
            f"entries of {model.subtoken_bits} bits differ in so many at most, not in {loss.hamming_distance}; give 0 "
            f"(off) to {model.subtoken_bits}",
        )


@rule("sampling", "model")
def _sampling_has_it_for_the_model(sampling: SamplingConfig, model: ModelConfig) -> Iterator[Problem]:
    if sampling.lookahead > 1 and model.modelling == "masked":
        yield (
            "sampling.lookahead",
            "a masked model draws all codes in every pass, and guesses none; set sampling.lookahead=1",
        )
    for setting, is_on in (("compile", sampling.compile), ("cuda_graphs", sampling.cuda_graphs)):
        if is_on and not model.is_foldable:
            yield (
                f"sampling.{setting}",
                "this works for autoregressive models with rotary positions, dot products and a head of keys for each "
                f"of queries, without adaln or qk_norm; set sampling.{setting}=false",
            )


@rule("tokenizer")
def _image_fits(tokenizer: TokenizerConfig) -> Iterator[Problem]:
    if tokenizer.image_size % tokenizer.downsampling:
        yield (
            "tokenizer.image_size",
            f"{tokenizer.image_size} pixels are no multiple of the down-sampling {tokenizer.downsampling} (patch_size "
            "x 2 per channel multiplier after the first); choose a multiple of it",
        )
        return
    sizes = [tokenizer.image_size // tokenizer.patch_size // 2**i for i in range(len(tokenizer.channel_multipliers))]
    for resolution in tokenizer.attention_resolutions:
        if resolution not in sizes:
            yield (
                "tokenizer.attention_resolutions",
                f"no feature map is {resolution} x {resolution}; there are {', '.join(map(str, sizes))}",
            )


@rule("tokenizer")
def _codebook_fits(tokenizer: TokenizerConfig) -> Iterator[Problem]:
    if tokenizer.kind == "bae":
        if tokenizer.codebook_size:
            yield (
                "tokenizer.codebook_size",
                f"a BAE has no codebook, and so none of {tokenizer.codebook_size} entries; set tokenizer.kind=vqgan or "
                "tokenizer.codebook_size=0",
            )
    elif tokenizer.codebook_size < 2:
        yield (
            "tokenizer.codebook_size",
            f"a VQGAN needs a codebook of 2 entries or more, not {tokenizer.codebook_size}; set "
            f"tokenizer.codebook_size={2**tokenizer.code_bits}, or tokenizer.kind=bae",
        )
    elif tokenizer.code_bits != tokenizer.codebook_bits:
        yield (
            "tokenizer.code_bits",
            f"{tokenizer.codebook_size} entries of a codebook are numbered in {tokenizer.codebook_bits} bits, not "
            f"{tokenizer.code_bits}; set tokenizer.code_bits={tokenizer.codebook_bits}, or "
            f"tokenizer.codebook_size={2**tokenizer.code_bits}",
        )


@rule("tokenizer_training", "tokenizer")
def _losses_fit(training: TokenizerTrainingConfig, tokenizer: TokenizerConfig) -> Iterator[Problem]:
    judges = [("adversarial_weight", "0", training.adversarial_weight > 0, 24, "one patch of the discriminator")]
    judges += [("perceptual", "none", training.perceptual == "lpips_vgg", 16, "VGG16, which halves them four times")]
    for setting, off, is_on, least, what in judges:
        if is_on and tokenizer.image_size < least:
            yield (
                f"tokenizer_training.{setting}",
                f"images of {tokenizer.image_size} pixels are too small for {what}; set "
                f"tokenizer_training.{setting}={off}, or tokenizer.image_size to {least} or more",
            )


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


@rule("monitoring", "model")
def _sample_classes_exist(monitoring: MonitoringConfig, model: ModelConfig) -> Iterator[Problem]:
    unknown = [label for label in monitoring.sample_classes if label >= model.num_classes]
    if unknown:
        yield (
            "monitoring.sample_classes",
            f"there is no class {', '.join(map(str, unknown))}; classes are 0 to {model.num_classes - 1}",
        )


@rule("sampling", "model")
def _top_k_fits(sampling: SamplingConfig, model: ModelConfig) -> Iterator[Problem]:
    if sampling.top_k > model.vocabulary:
        yield (
            "sampling.top_k",
            f"{sampling.top_k} is more than the {model.vocabulary} entries of a sub-code of {model.subtoken_bits} "
            f"bits; use 1 to {model.vocabulary}, or 0 for all",
        )


@rule("sampling")
def _guidance_ends_after_it_begins(sampling: SamplingConfig) -> Iterator[Problem]:
    begin, end = sampling.cfg_interval
    if begin >= end:
        yield (
            "sampling.cfg_interval",
            f"guidance from {begin:g} to {end:g} of the positions is never on; give [begin, end] with begin < end, as "
            "in [0.1, 0.9], or set sampling.cfg_scale=1 for none",
        )


def broken_rules(sections: dict[str, Any]) -> list[Problem]:
    """Return what the sections at hand, all valid by themselves, make impossible together."""
    return [
        problem
        for names, check in RULES
        if all(name in sections for name in names)
        for problem in check(*(sections[name] for name in names))
    ]

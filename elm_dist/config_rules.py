"""What goes with what in a configuration, and the remedy for what does not.

Each rule reads the sections that it names and yields (path, message with the remedy) for what it refuses.
"""

from collections.abc import Callable, Iterator
from typing import Any

from elm_dist.config import (
    ModelConfig,
    MonitoringConfig,
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
    elif model.head_size % 4:
        yield (
            "model.num_heads",
            f"a head of {model.head_size} channels cannot be rotated in two dimensions; choose num_heads so that "
            "hidden_size / num_heads is a multiple of 4",
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
    if parallel.pipeline_stages > model.num_layers:
        yield (
            "parallel.pipeline_stages",
            f"{parallel.pipeline_stages} stages need at least one block each, but model.num_layers is "
            f"{model.num_layers}; use at most {model.num_layers} stages",
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
    elif parallel.precision == "bf16" and parallel.zero_stage == 0:
        yield (
            "parallel.zero_stage",
            "bf16 needs the fp32 master weights that ZeRO keeps, and DeepSpeed's stage 0 miscounts Adam's steps; set "
            "parallel.zero_stage=1 or parallel.precision=fp32",
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


def broken_rules(sections: dict[str, Any]) -> list[Problem]:
    """Return what the sections at hand, all valid by themselves, make impossible together."""
    return [
        problem
        for names, check in RULES
        if all(name in sections for name in names)
        for problem in check(*(sections[name] for name in names))
    ]

"""What goes with what in a tokenizer, and its training."""

from collections.abc import Iterator

from elm_dist.config import TokenizerConfig, TokenizerTrainingConfig
from elm_dist.config_rules.registry import Problem, rule


@rule("tokenizer")
def _image_fits(tokenizer: TokenizerConfig) -> Iterator[Problem]:
    if any(side % tokenizer.downsampling for side in tokenizer.image_size):
        yield (
            "tokenizer.image_size",
            f"{tokenizer.image_size} pixels are no multiple of the down-sampling {tokenizer.downsampling} (patch_size "
            "x 2 per channel multiplier after the first); choose a multiple of it, as height and as width",
        )
        return
    shorter = [min(size) for size in tokenizer.feature_maps]
    for resolution in tokenizer.attention_resolutions:
        if resolution not in shorter:
            yield (
                "tokenizer.attention_resolutions",
                f"no feature map has a shorter side of {resolution}; there are {', '.join(map(str, shorter))}",
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
        if is_on and min(tokenizer.image_size) < least:
            yield (
                f"tokenizer_training.{setting}",
                f"images of {tokenizer.image_size} pixels are too small for {what}; set "
                f"tokenizer_training.{setting}={off}, or tokenizer.image_size to {least} or more",
            )

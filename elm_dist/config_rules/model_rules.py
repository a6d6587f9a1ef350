"""What goes with what in a model and its loss."""

from collections.abc import Iterator

from elm_dist.config import LossConfig, ModelConfig, TokenizerConfig
from elm_dist.config_rules.registry import Problem, rule


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
    if model.subtoken_prediction == "sequential" and model.modelling == "masked":
        yield (
            "model.subtoken_prediction",
            "a masked model draws whole codes in every pass; set model.subtoken_prediction=parallel, or "
            "model.modelling=autoregressive",
        )
    elif model.subtoken_prediction == "sequential" and model.subtokens == 1:
        yield (
            "model.subtoken_prediction",
            "a lone sub-token has none before it in its position; set model.subtoken_prediction=parallel, or "
            "model.subtokens to 2 or more",
        )


@rule("loss", "model")
def _soft_labels_fit(loss: LossConfig, model: ModelConfig) -> Iterator[Problem]:
    if loss.hamming_distance > model.subtoken_bits:
        yield (
            "loss.hamming_distance",
            f"entries of {model.subtoken_bits} bits differ in so many at most, not in {loss.hamming_distance}; give 0 "
            f"(off) to {model.subtoken_bits}",
        )

"""What goes with what in sampling."""

from collections.abc import Iterator

from elm_dist.config import ModelConfig, MonitoringConfig, SamplingConfig
from elm_dist.config_rules.registry import Problem, rule


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
                "this works for autoregressive models with rotary positions, dot products, a head of keys for each of "
                f"queries and parallel sub-tokens, without adaln or qk_norm; set sampling.{setting}=false",
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

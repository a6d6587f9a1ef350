"""DeepSpeed's settings, derived from our typed configuration: written by hand, a misspelled key goes unnoticed."""

from typing import Any

from elm_dist.config import Config
from elm_dist.parallel.layout import Layout


def derive_deepspeed_config(config: Config, layout: Layout) -> dict[str, Any]:
    """Return the dictionary for `deepspeed.initialize`; the optimizer is built by us and not in it."""
    settings: dict[str, Any] = {
        "train_batch_size": config.schedule.global_batch_size,
        "train_micro_batch_size_per_gpu": layout.micro_batch_size,
        "gradient_accumulation_steps": layout.accumulation,
        "gradient_clipping": config.optimizer.gradient_clipping,
        "zero_optimization": {"stage": config.parallel.zero_stage},
        "zero_allow_untested_optimizer": True,  # plain SGD is not on DeepSpeed's list; our tests cover it
        "steps_per_print": None,  # our own writers report
    }
    for what, key in (("optimizer", "offload_optimizer"), ("parameters", "offload_param")):
        if what in config.parallel.offload:
            settings["zero_optimization"][key] = {"device": "cpu", "pin_memory": config.parallel.device != "cpu"}
            settings["zero_force_ds_cpu_optimizer"] = False  # ours steps there, too
    if config.parallel.precision == "bf16":
        settings["bf16"] = {"enabled": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    elif config.parallel.precision == "fp16":
        settings["fp16"] = {"enabled": True}  # the scale of the loss follows the gradients
    if sums_in_fp32(config):  # or replicas would round those sums to bf16 to reduce them
        settings["communication_data_type"] = "fp32"
    return settings


def sums_in_fp32(config: Config) -> bool:
    """Return whether DeepSpeed's BF16_Optimizer trains, which keeps whole sums of gradients in fp32."""
    parallel = config.parallel
    return parallel.precision == "bf16" and parallel.zero_stage == 1 and "optimizer" not in parallel.offload

from pathlib import Path

import torch
from deepspeed.runtime.config import DeepSpeedConfig

from elm_dist.config_file import load_config
from elm_dist.parallel.deepspeed_config import derive_deepspeed_config
from elm_dist.parallel.layout import plan_layout

TINY = Path(__file__).parent.parent / "distributed" / "tiny.yaml"


def derive(*overrides: str) -> dict:
    config = load_config(TINY, list(overrides))
    return derive_deepspeed_config(config, plan_layout(config, 1))


def test_deepspeed_reads_every_key_that_is_derived() -> None:
    """DeepSpeed passes over keys that it does not know, so each must show in what it parsed."""
    settings = derive("parallel.precision=bf16", "optimizer.gradient_clipping=0.5", "parallel.zero_stage=2")
    parsed = DeepSpeedConfig(settings)
    assert parsed.train_batch_size == 16
    assert parsed.train_micro_batch_size_per_gpu == 2
    assert parsed.gradient_accumulation_steps == 8
    assert parsed.gradient_clipping == 0.5
    assert parsed.zero_optimization_stage == 2
    assert parsed.zero_allow_untested_optimizer is True
    assert parsed.bfloat16_config.enabled is True
    assert parsed.grad_accum_dtype == "fp32"
    assert parsed.steps_per_print is None
    tested = {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "zero_optimization",
        "zero_allow_untested_optimizer",
        "bf16",
        "data_types",
        "steps_per_print",
    }
    assert set(settings) == tested


def test_sums_in_fp32_are_reduced_in_fp32() -> None:
    """DeepSpeed itself would round them to bf16 on their way between replicas."""
    settings = derive("parallel.precision=bf16", "parallel.zero_stage=1")
    assert DeepSpeedConfig(settings).communication_data_type == torch.float32
    for others in (["parallel.zero_stage=2"], ["parallel.zero_stage=1", "parallel.offload=[optimizer]"]):
        assert "communication_data_type" not in derive("parallel.precision=bf16", *others)


def test_fp32_asks_for_no_other_precision() -> None:
    assert "communication_data_type" not in derive()
    assert "bf16" not in derive()

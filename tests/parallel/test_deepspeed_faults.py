"""What keeps the traps of DeepSpeed shut, as far as one process can tell.

The faults themselves are in `tests/distributed/deepspeed_faults.py`; what its settings become, in
`test_deepspeed_config.py`; the combinations that are refused, in `test_config.py`.
"""

import ast
from pathlib import Path

import deepspeed
import pytest
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.comm.torch import build_shm_op
from deepspeed.ops.op_builder.all_ops import ALL_OPS
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.utils import partition_balanced

import elm_dist
from elm_dist.config_file import load_config
from elm_dist.errors import LayoutError
from elm_dist.parallel.build import connect
from elm_dist.parallel.deepspeed_config import derive_deepspeed_config
from elm_dist.parallel.environment import ProcessEnvironment
from elm_dist.parallel.layout import plan_layout
from elm_dist.parallel.partition import plan_partition
from elm_dist.parallel.stages import FoldedStage, Stage

TINY = Path(__file__).parent.parent / "distributed" / "tiny.yaml"
SOURCES = sorted(Path(elm_dist.__file__).parent.rglob("*.py"))

AVOIDED = {
    "save_checkpoint": "is not atomic, and pickles",
    "load_checkpoint": "reads flipped bytes silently, and starts over where the file `latest` is missing",
    "eval_batch": "keeps the shapes of training, and reduces tuples of losses wrongly",
    "set_full_hp_param": "fails in ZeRO 3 for tensors that do not divide over the ranks",
    "TiedLayerSpec": "adds the gradients of a shared weight up in another order than one process",
    "DeepSpeedCPUAdam": "is compiled when it is first used, which takes minutes",
    "seed_layers": "fails where layers are divided by their size, and its weights depend on the layout",
    "activation_checkpoint_interval": "fails on inputs without gradients; blocks recompute themselves",
    "dynamic_shape": "does not go with DualPipeV, and sends shapes with each tensor",
}
AVOIDED_KEYS = {
    "wall_clock_breakdown": "stops a pipeline",
    "flops_profiler": "stops a pipeline",
    "optimizer": "is FusedAdam, compiled when it is first used; ours is handed over",
    "scheduler": "would set the learning rate a second time",
    "elasticity": "is no longer there, and an error",
    "checkpoint": "belongs to loading, which is ours",
}
LAYOUTS = {
    "bf16": ["parallel.precision=bf16"],
    "fp16": ["parallel.precision=fp16"],
    "ZeRO 0": ["parallel.zero_stage=0"],
    "ZeRO 3": ["parallel.zero_stage=3", "parallel.offload=[optimizer, parameters]"],
    "pipeline": ["parallel.pipeline_stages=2", "parallel.checkpoint_every_blocks=1"],
    "folded pipeline": ["parallel.pipeline_stages=2", "parallel.schedule=zbv", "parallel.precision=bf16"],
}


def derive(*overrides: str) -> dict:
    config = load_config(TINY, list(overrides))
    return derive_deepspeed_config(config, plan_layout(config, config.parallel.pipeline_stages))


def test_deepspeed_passes_over_a_misspelled_key() -> None:
    parsed = DeepSpeedConfig({"train_batch_size": 1, "gradient_cliping": 0.5})
    assert parsed.gradient_clipping != 0.5, "DeepSpeed mended this: the tests need not compare each key any more"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_layout_sets_a_key_that_breaks_something(layout: str) -> None:
    assert not derive(*LAYOUTS[layout]).keys() & AVOIDED_KEYS.keys()


def test_deepspeed_reads_what_offload_and_fp16_add() -> None:
    settings = derive(*LAYOUTS["ZeRO 3"])
    parsed = DeepSpeedConfig(settings)
    assert parsed.zero_config.offload_optimizer.device == parsed.zero_config.offload_param.device == "cpu"
    assert settings["zero_optimization"].keys() == {"stage", "offload_optimizer", "offload_param"}
    assert parsed.zero_force_ds_cpu_optimizer is False
    assert DeepSpeedConfig(derive(*LAYOUTS["fp16"])).float16_config.enabled is True


@pytest.mark.parametrize("layout", ["bf16", "folded pipeline"])
def test_bf16_always_comes_with_master_weights_and_sums_in_fp32(layout: str) -> None:
    settings = derive(*LAYOUTS[layout])
    assert settings["zero_optimization"]["stage"] > 0
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}


def test_the_package_uses_nothing_of_deepspeed_that_goes_wrong() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name) | ast.keyword(arg=name):
                    assert name not in AVOIDED, f"{path.name}: {name} {AVOIDED[name]}"


@pytest.mark.parametrize("kind", [Stage, FoldedStage])
def test_stages_have_names_that_mean_nothing_to_deepspeed(kind: type) -> None:
    assert kind.__name__ not in ("GPT2ModelPipe", "GPTModelPipe")


def test_deepspeed_divides_by_parameters_and_gives_the_embedding_a_stage_that_idles() -> None:
    parameters, work = [100, 1, 1, 1, 50], [0, 1, 1, 1, 1]
    assert partition_balanced(parameters, 3)[1] == 1, "DeepSpeed mended this: see whether partition.py can go"
    assert plan_partition(work, 3, parameters)[1] > 1


def test_the_operation_that_is_compiled_at_every_start_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `build.connect` sets is what DeepSpeed asks; otherwise this would compile."""
    assert "deepspeed_shm_comm" in ALL_OPS
    monkeypatch.setitem(deepspeed.ops.__compatible_ops__, "deepspeed_shm_comm", False)
    assert build_shm_op() is None


def test_fp16_on_a_cpu_is_refused_before_processes_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed, "get_accelerator", CPU_Accelerator)
    alone = ProcessEnvironment(0, 0, 1, "127.0.0.1", 0, "a test")
    with pytest.raises(LayoutError, match=r"=fp16, but this cpu does not train in fp16; set parallel.precision=bf16"):
        connect(load_config(TINY, ["parallel.precision=fp16"]), alone)

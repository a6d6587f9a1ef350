"""The faults of DeepSpeed that this project steers around: each function says whether one is still there.

Usage, by two processes: deepspeed_faults.py OUT_DIRECTORY; rank r writes what it found to OUT_DIRECTORY/<r>.json.
Above each fault stands what it keeps here, which may go when DeepSpeed has mended it.
"""

import json
import os
import sys
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.pipe import DualPipeVModule, LayerSpec, PipelineModule
from torch import Tensor, nn

from elm_dist.config_file import load_config
from elm_dist.parallel.build import connect
from elm_dist.parallel.environment import process_environment

TINY = Path(__file__).parent / "tiny.yaml"
BF16 = {"enabled": True}


class Fault(NamedTuple):
    is_there: Callable[[Path], bool]  # given a folder that all processes share
    keeps: str


FAULTS: dict[str, Fault] = {}


def fault(keeps: str) -> Callable[[Callable[[Path], bool]], Callable[[Path], bool]]:
    def register(is_there: Callable[[Path], bool]) -> Callable[[Path], bool]:
        FAULTS[is_there.__name__] = Fault(is_there, keeps)
        return is_there

    return register


def raises(kind: type[Exception], match: str, run: Callable[[], object]) -> bool:
    try:
        run()
    except kind as error:
        return match in str(error)
    return False


def initialize(model: nn.Module, optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW, **settings: Any) -> Any:
    """Return DeepSpeed's engine for the model, with a learning rate of 1."""
    settings = {"train_micro_batch_size_per_gpu": 1, "zero_allow_untested_optimizer": True} | settings
    return deepspeed.initialize(model=model, optimizer=optimizer(model.parameters(), lr=1.0), config=settings)[0]


def zero(stage: int, **more: Any) -> dict[str, Any]:
    return {"stage": stage, **more}


# Without a pipeline


def train_step(engine: Any) -> None:
    engine.backward(engine(torch.ones(1, 3, dtype=engine.module.weight.dtype)).sum())
    engine.step()


@fault("the rule that bf16 and fp16 need ZeRO 1")
def bf16_without_zero_counts_the_first_step_of_adam_twice(_: Path) -> bool:
    engine = initialize(nn.Linear(3, 3), bf16=BF16)
    train_step(engine)
    return {int(state["step"]) for state in engine.basic_optimizer.state.values()} == {2}


@fault("the rule that bf16 and fp16 need ZeRO 1")
def bf16_without_zero_adds_up_no_gradients_in_fp32(_: Path) -> bool:
    settings = {"bf16": BF16, "data_types": {"grad_accum_dtype": "fp32"}}
    return raises(NotImplementedError, "unsupported mix", lambda: initialize(nn.Linear(3, 3), **settings))


@fault("the sentence in build.connect that says so before DeepSpeed does")
def fp16_is_refused_on_a_cpu(_: Path) -> bool:
    return raises(ValueError, "Type fp16 is not", lambda: initialize(nn.Linear(3, 3), fp16={"enabled": True}))


@fault("that StepResult.grad_norm may be None")
def fp32_without_zero_reports_no_norm(_: Path) -> bool:
    engine = initialize(nn.Linear(3, 3))
    train_step(engine)
    return engine.get_global_grad_norm() is None


@fault("OptimizerState.scatter for ZeRO 3, which set_full_hp_param could replace")
def zero_3_cannot_set_a_tensor_that_does_not_divide(_: Path) -> bool:
    weight: Any = initialize(nn.Linear(3, 1, bias=False), zero_optimization=zero(3)).module.weight
    return raises(RuntimeError, "", lambda: weight._z3_optimizer.set_full_hp_param(torch.zeros(3), weight))


@fault("that weights are initialized by name, one gathered tensor after the other, in plain_engine._build_model")
def zero_3_loses_what_a_parent_sets(_: Path) -> bool:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child = nn.Linear(3, 3)
            nn.init.constant_(self.child.weight, 7.0)

    with deepspeed.zero.Init(config_dict_or_path={"train_batch_size": 2, "zero_optimization": zero(3)}):
        model = Parent()
    with deepspeed.zero.GatheredParameters([model.child.weight]):
        return not (model.child.weight == 7.0).any()


@fault("the key zero_force_ds_cpu_optimizer in deepspeed_config.py")
def offload_refuses_the_optimizers_of_torch(_: Path) -> bool:
    offload = zero(1, offload_optimizer={"device": "cpu"})
    return raises(Exception, "zero_force_ds_cpu", lambda: initialize(nn.Linear(3, 3), zero_optimization=offload))


@fault("checkpoint/store.py, which stops instead")
def a_checkpoint_that_is_not_there_loads_as_none(folder: Path) -> bool:
    return initialize(nn.Linear(3, 3)).load_checkpoint(str(folder / "nothing")) == (None, None)


@fault("checkpoint/store.py, which compares checksums")
def a_checkpoint_with_flipped_bytes_loads_silently(folder: Path) -> bool:
    """The bytes are found by their values, for they are to be those of a weight and not of the file's own tables."""
    engine = initialize(nn.Linear(64, 64))
    nn.init.constant_(engine.module.weight, 7.0)
    engine.save_checkpoint(str(folder), tag="flipped")
    file = folder / "flipped" / "mp_rank_00_model_states.pt"
    if dist.get_rank() == 0:
        good = file.read_bytes()
        file.write_bytes(good.replace(torch.full((16,), 7.0).numpy().tobytes(), bytes(64), 1))
        assert file.read_bytes() != good
    dist.barrier()
    engine.load_checkpoint(str(folder), tag="flipped")
    return int((engine.module.weight == 0).sum()) == 16


# With a pipeline of two stages, one layer each. These come last: from here on the processes are stages.


def pipeline(kind: type[PipelineModule] = PipelineModule, layers: int = 2, **options: Any) -> PipelineModule:
    specs = [LayerSpec(nn.Linear, 3, 3) for _ in range(layers)]
    return kind(specs, num_stages=2, loss_fn=squared_error, **{"partition_method": "uniform"} | options)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum()


def train_batch(engine: Any) -> None:
    engine.train_batch(repeat((torch.ones(1, 3), torch.zeros(1, 3))))


@fault("the rule that a pipeline needs ZeRO 1")
def a_pipeline_without_zero_clips_by_the_norm_of_its_first_stage(_: Path) -> bool:
    """Plain SGD at a learning rate of 1 moves the weights by the clipped gradients."""
    engine = initialize(pipeline(), torch.optim.SGD, gradient_clipping=0.01)
    before = [parameter.detach().clone() for parameter in engine.module.parameters()]
    train_batch(engine)
    moves = zip(before, engine.module.parameters(), strict=True)
    total = sum(((now.detach() - then).square().sum() for then, now in moves), torch.zeros(()))
    dist.all_reduce(total)
    return total.sqrt().item() > 1.01 * 0.01


@fault("the rule that a pipeline needs ZeRO 1")
def a_pipeline_refuses_zero_2(_: Path) -> bool:
    return raises(AssertionError, "incompatible", lambda: initialize(pipeline(), zero_optimization=zero(2)))


@fault("the LayoutError for folded schedules with fewer micro-batches than parts, in layout.plan_layout")
def dualpipev_needs_two_micro_batches_a_stage(_: Path) -> bool:
    short = {"gradient_accumulation_steps": 3}
    return raises(AssertionError, ">= 2 *", lambda: initialize(pipeline(DualPipeVModule, layers=4), **short))


@fault("initialization by name, without seed_layers")
def layers_cannot_be_seeded_where_they_are_divided_by_size(_: Path) -> bool:
    by_size = {"seed_layers": True, "base_seed": 1, "partition_method": "parameters"}
    return raises(TypeError, "seed", lambda: pipeline(layers=3, **by_size))


@fault("the names of the classes in stages.py")
def a_module_called_gpt2modelpipe_is_taken_for_another(_: Path) -> bool:
    return initialize(pipeline(type("GPT2ModelPipe", (PipelineModule,), {}))).has_attention_mask


@fault("monitoring/stopwatch.py, with which pipeline_engine.py clocks instructions")
def clocks_stop_a_pipeline(_: Path) -> bool:
    """This one comes last of all: the first stage fails and exits, and only that makes the other give up waiting."""
    engine = initialize(pipeline(), wall_clock_breakdown=True, gradient_accumulation_steps=2)
    return raises(Exception, "already been started", lambda: train_batch(engine))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    environment = process_environment()
    connect(load_config(TINY), environment)
    found = {}
    for name, (is_there, _) in FAULTS.items():
        torch.manual_seed(0)
        found[name] = is_there(folder)
    (folder / f"{environment.rank}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # the stages no longer agree on where they are: they cannot part in an orderly way


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What one rank of each stage holds in GPU memory, part by part, as DeepSpeed 0.19.8 keeps it. Needs no torch."""

from dataclasses import dataclass

from elm_dist.config import Config
from elm_dist.parallel.deepspeed_config import sums_in_fp32
from elm_dist.planning.hardware import GB
from elm_dist.planning.work import element_bytes

# Two constants fitted to nanotron's published runs on H100 (tests/planning/test_published_memory.py does it again):
SLACK = 1.07  # the allocator's rounding and the kernels' temporaries, as a factor of what is kept
WORKSPACE = 2.25 * GB  # the CUDA context, NCCL's buffers, cuBLAS's workspaces

BUCKET = 500_000_000  # elements that DeepSpeed reduces at a time (its default, which we do not change)
LIVE = 1_000_000_000  # parameters that ZeRO 3 leaves gathered (its default)
PREFETCH = 50_000_000  # parameters that ZeRO 3 gathers at a time ahead of their use (its default)


@dataclass(frozen=True)
class StateBytes:
    """Bytes that one rank holds for each parameter of its stage, on the GPU and, offloaded, in main memory."""

    weights: float
    gradients: float
    optimizer: float  # fp32 master weights and moments
    ema: float
    host: float = 0.0


@dataclass(frozen=True)
class Buffers:
    """Bytes of DeepSpeed's buffers on one rank of a stage."""

    lasting: float = 0.0  # beside everything else
    passes: float = 0.0  # beside activations
    update: float = 0.0  # when the activations are gone


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one rank of a stage at its fullest moment."""

    weights: float
    gradients: float
    optimizer: float
    ema: float
    activations: float
    logits: float
    buffers: float  # of gathered weights, of reductions, and what the update takes beyond what activations left
    workspace: float
    host: float  # main memory, not part of the total

    @property
    def parts(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if name != "host"}

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def state_bytes(config: Config, replicas: int) -> StateBytes:
    """Return what ZeRO leaves of the state of each parameter on one of `replicas` ranks.

    In bf16 gradients are summed in fp32. With ZeRO 1 a rank keeps the sums whole, and beside them the gradients of the
    last micro-batch in bf16; the optimizer for offloading has the sums alone. ZeRO 2 and 3 keep the rank's share of the
    sums, on the GPU even when the optimizer is not.
    """
    parallel, element = config.parallel, element_bytes(config.parallel.precision)
    zero, moments = parallel.zero_stage, 8 if config.optimizer.name == "adamw" else 0
    is_offloaded = "optimizer" in parallel.offload
    share = 1 / replicas if zero else 1.0
    if zero >= 2:
        gradients = 4 * share
    elif zero == 1 and parallel.precision == "bf16":
        gradients = 4.0 if is_offloaded else element + 4.0
    else:
        gradients = float(element)
    weights = element * share if zero == 3 else float(element)
    # With ZeRO 0 the weights that compute are the master weights.
    optimizer, ema = (moments + (4 if zero else 0)) * share, 4 * share
    if not is_offloaded:
        return StateBytes(weights, gradients, optimizer, ema)
    host = optimizer + ema + (4 + element) * share  # and the gradients, and a copy of the weights on their way back
    if "parameters" in parallel.offload:
        return StateBytes(0.0, gradients, 0.0, 0.0, host + weights)
    return StateBytes(weights, gradients, 0.0, 0.0, host)


def stage_memory(
    parameters: int, state: StateBytes, activations: float, logits: float, buffers: Buffers | None = None
) -> StageMemory:
    """Return the memory of a stage with so many `parameters`, whose passes hold `activations` and `logits` at most."""
    buffers = buffers or Buffers()
    return StageMemory(
        weights=parameters * state.weights,
        gradients=parameters * state.gradients,
        optimizer=parameters * state.optimizer,
        ema=parameters * state.ema,
        activations=SLACK * activations,
        logits=SLACK * logits,
        buffers=buffers.lasting + max(buffers.passes, buffers.update - SLACK * (activations + logits)),
        workspace=WORKSPACE,
        host=parameters * state.host,
    )


def zero_buffers(config: Config, parameters: int, replicas: int) -> Buffers:
    """Return DeepSpeed's buffers for a stage.

    ZeRO's optimizer has a bucket from the backward pass on, as large as it is set. What is in the bucket is copied to
    be reduced: once, when the activations are gone, if all gradients fit into it. Stage 3 has the weights that it
    gathered, and a second time those that it gathered together, until the last of them is used. Plain replicas, and
    bf16 with ZeRO 1, have a bucket for the reduction alone, before AdamW needs a temporary as large as this rank's
    share of the master weights.
    """
    zero, element = config.parallel.zero_stage, element_bytes(config.parallel.precision)
    temporary = 0.0 if "optimizer" in config.parallel.offload else 4 * parameters / (replicas if zero else 1)
    reduced = 4 * min(BUCKET, parameters) if replicas > 1 else 0
    if zero == 0 or sums_in_fp32(config):
        return Buffers(update=max(temporary, reduced))
    gathered, prefetched = (element * min(most, parameters) if zero == 3 else 0 for most in (LIVE, PREFETCH))
    bucket = BUCKET * (4 if zero == 1 and config.parallel.precision == "bf16" else element)  # as are its gradients
    copied = element * min(BUCKET, parameters) if replicas > 1 else 0
    return Buffers(bucket + gathered + (copied if parameters > BUCKET else 0), prefetched, max(temporary, copied))

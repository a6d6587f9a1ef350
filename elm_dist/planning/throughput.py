"""How long a step takes: the passes as the schedule orders them, the network, the update. Needs no torch.

Seconds of products and of memory traffic come from `work.py`. The network carries what DeepSpeed sends, at the rate of
the wire times `ACHIEVED`. Not modelled: stragglers, the loader, what a collective takes before its first byte.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from elm_dist.config import Config
from elm_dist.model.cost import count_parameters, training_flops_per_image
from elm_dist.parallel.deepspeed_config import sums_in_fp32
from elm_dist.parallel.layout import Layout
from elm_dist.parallel.partition import plan_stages
from elm_dist.parallel.schedule import PartCost, ScheduleName, Timeline, build_schedule, simulate
from elm_dist.planning.hardware import GB, Cluster
from elm_dist.planning.work import LayerWork, element_bytes

ACHIEVED = 0.8  # of the rate of a wire
OVERLAP = 0.8  # of the passes' time hides the weights that ZeRO 3 gathers and the gradients that it reduces
HOST_LINK = 25 * GB  # PCIe 4.0 x16 between a GPU and main memory, as reached
UPDATE_BYTES = 36  # of AdamW and EMA for a parameter: weight, two moments and average read and written, gradient read


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step, by what they are spent on; their sum is the step."""

    compute: float  # of the stage that computes most
    bubble: float  # in which that stage waits for others
    network: float  # gradients and weights between replicas, not hidden
    update: float  # of the optimizer, with what goes to main memory and back

    @property
    def parts(self) -> dict[str, float]:
        return dict(vars(self))

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def stage_layers(config: Config, layout: Layout) -> list[list[int]]:
    """Return the numbers of the layers of each stage."""
    parts = [list(range(begin, end)) for begin, end in pairwise(plan_stages(config, layout.parts))]
    if layout.is_folded:
        return [parts[stage] + parts[layout.parts - 1 - stage] for stage in range(layout.stages)]
    return parts


def plan_timeline(config: Config, layout: Layout, cluster: Cluster, layers: Sequence[LayerWork]) -> Timeline:
    """Return when each stage computes what in a step; its activations are in bytes.

    In a pipeline DeepSpeed keeps what goes in and out of each part beside what autograd saves.
    """
    name: ScheduleName = layout.schedule if layout.stages > 1 else "1f1b"  # type: ignore[assignment]
    stream = _stream_bytes(config)
    costs = [
        PartCost(
            forward=sum(layer.forward for layer in layers[begin:end]),
            input_gradient=sum(layer.input_gradient for layer in layers[begin:end]),
            weight_gradient=sum(layer.weight_gradient for layer in layers[begin:end]),
            activations=sum(layer.kept for layer in layers[begin:end]) + (2 * stream if layout.stages > 1 else 0),
        )
        for begin, end in pairwise(plan_stages(config, layout.parts))
    ]
    return simulate(
        build_schedule(name, layout.stages, layout.accumulation), costs, stream / _stage_bandwidth(layout, cluster)
    )


def plan_step(config: Config, layout: Layout, cluster: Cluster, timeline: Timeline, parameters: int) -> StepTime:
    """Return the time of a step whose largest stage has `parameters`."""
    busy = max(sum(span.end - span.begin for span in spans) for spans in timeline.stages)
    network = _replica_bytes(config, layout, parameters) / _replica_bandwidth(layout, cluster)
    if config.parallel.zero_stage == 3:
        network = max(0.0, network - OVERLAP * timeline.makespan)
    return StepTime(busy, timeline.makespan - busy, network, _update_seconds(config, layout, cluster, parameters))


def _replica_bytes(config: Config, layout: Layout, parameters: int) -> float:
    """Return what one rank sends to the other replicas in a step.

    A sum that all get is sent twice, in a ring; one that is left in shares, and shares that all get, once.
    """
    zero, element = config.parallel.zero_stage, element_bytes(config.parallel.precision)
    if zero == 0:
        each = 2.0 * element
    elif sums_in_fp32(config):
        each = 2.0 * 4 + element  # DeepSpeed gives the sums to all, and takes the new weights from their owners
    elif zero == 1:
        each = 2.0 * element
    elif zero == 2:
        each = element * (layout.accumulation + 1.0)
    else:
        each = 3.0 * element * layout.accumulation  # weights for each pass, and gradients
    return each * parameters * (layout.replicas - 1) / layout.replicas


def _replica_bandwidth(layout: Layout, cluster: Cluster) -> float:
    """The replicas of a stage are consecutive ranks, and so on as few nodes as can be."""
    link = cluster.gpu.link
    return ACHIEVED * (link if layout.replicas <= cluster.gpus_per_node else min(link, cluster.fabric.bandwidth))


def _stage_bandwidth(layout: Layout, cluster: Cluster) -> float:
    """Of the slowest link between two stages; all replicas whose neighbours are on another node send at once."""
    if cluster.nodes == 1:
        return ACHIEVED * cluster.gpu.link
    senders = min(layout.replicas, cluster.gpus_per_node)
    return ACHIEVED * min(cluster.gpu.link, cluster.fabric.bandwidth / senders)


def _stream_bytes(config: Config) -> float:
    """Return the bytes of one micro-batch between two blocks."""
    images, positions = config.schedule.micro_batch_size, config.tokenizer.positions
    return images * positions * config.model.hidden_size * element_bytes(config.parallel.precision)


def _update_seconds(config: Config, layout: Layout, cluster: Cluster, parameters: int) -> float:
    """Return the seconds of clipping and of the optimizer, which does nothing but read and write memory."""
    share = parameters / (layout.replicas if config.parallel.zero_stage else 1)
    seconds = (4 * parameters + UPDATE_BYTES * share) / (ACHIEVED * cluster.gpu.bandwidth)
    element = element_bytes(config.parallel.precision)
    if "optimizer" in config.parallel.offload:  # gradients out, weights back
        seconds += share * 2 * element / HOST_LINK
    if "parameters" in config.parallel.offload:  # in for both passes of each micro-batch
        seconds += share * 2 * element * layout.accumulation / HOST_LINK
    return seconds


def flops_share(flops: float, seconds: float, peak: float) -> float:
    """Return MFU: `flops` of the model in `seconds` as a share of what `peak` FLOP/s would have done."""
    return flops / (seconds * peak)


def conventional_flops(parameters: int, layers: int, hidden_size: int, length: int) -> int:
    """Return the operations of a trained token as others count them: 6 N + 12 L h s, tables and head included in N."""
    return 6 * parameters + 12 * layers * hidden_size * length


def step_flops(config: Config) -> tuple[int, int]:
    """Return the operations of a step, ours and as others count them. Recomputation is not among them."""
    model, images, positions = config.model, config.schedule.global_batch_size, config.tokenizer.positions
    others = conventional_flops(
        count_parameters(model, config.tokenizer.grid), model.num_layers, model.hidden_size, positions
    )
    return images * training_flops_per_image(model, config.tokenizer.grid), images * positions * others

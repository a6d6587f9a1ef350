"""The plan of one run on one cluster: layout, memory, time. `plan_run` is what everything else here calls."""

from dataclasses import dataclass
from functools import cached_property

from elm_dist.config import Config
from elm_dist.errors import LayoutError
from elm_dist.parallel.layout import Layout, plan_layout
from elm_dist.parallel.schedule import Timeline
from elm_dist.planning.hardware import GIB, Cluster
from elm_dist.planning.memory import StageMemory, stage_memory, state_bytes, zero_buffers
from elm_dist.planning.throughput import StepTime, flops_share, plan_step, plan_timeline, stage_layers, step_flops
from elm_dist.planning.work import loss_bytes, plan_layers

USABLE = 0.85  # of a GPU's memory; the rest is for fragmentation and what a plan cannot know


@dataclass(frozen=True)
class Plan:
    """What a run will hold and how long it will take, if the estimates are right."""

    config: Config
    cluster: Cluster
    layout: Layout
    stages: tuple[tuple[int, StageMemory], ...]  # parameters and memory of each
    timeline: Timeline
    step: StepTime

    @property
    def memory(self) -> float:
        """Bytes of the fullest stage."""
        return max(memory.total for _, memory in self.stages)

    @property
    def memory_share(self) -> float:
        return self.memory / self.cluster.gpu.memory

    @property
    def fits(self) -> bool:
        return self.memory_share <= USABLE

    @property
    def images_per_second(self) -> float:
        return self.config.schedule.global_batch_size / self.step.total

    @property
    def tokens_per_second(self) -> float:
        """Positions of images, each one code."""
        return self.images_per_second * self.config.tokenizer.positions

    @property
    def hours(self) -> float:
        """Of the whole run: `schedule.total_steps`."""
        return self.config.schedule.total_steps * self.step.total / 3600

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.cluster.gpus

    @cached_property
    def mfu(self) -> float:
        return self._share(step_flops(self.config)[0])

    @cached_property
    def conventional_mfu(self) -> float:
        """MFU by 6 N + 12 L h s, to compare with what others publish."""
        return self._share(step_flops(self.config)[1])

    def _share(self, flops: int) -> float:
        peak = self.cluster.gpu.peaks[self.config.parallel.precision] * self.cluster.gpus
        return flops_share(flops, self.step.total, peak)


def plan_run(config: Config, cluster: Cluster) -> Plan:
    """Return the plan of `config` on `cluster`, whether it fits or not.

    Raises LayoutError where the processes do not divide, or the GPU does not compute in `parallel.precision`.
    """
    precision = config.parallel.precision
    if precision not in cluster.gpu.peaks:
        raise LayoutError(
            f"parallel.precision={precision}, but this GPU does not train in {precision}; set parallel.precision to "
            f"{' or '.join(cluster.gpu.peaks)}"
        )
    layout = plan_layout(config, cluster.gpus)
    layers = plan_layers(config, cluster.gpu)
    timeline = plan_timeline(config, layout, cluster, layers)
    state = state_bytes(config, layout.replicas)
    stages = []
    for stage, numbers in enumerate(stage_layers(config, layout)):
        parameters = sum(layers[number].parameters for number in numbers)
        recomputed = max(layers[number].recomputed for number in numbers)
        has_loss = len(layers) - 1 in numbers
        memory = stage_memory(
            parameters,
            state,
            timeline.peak_activations[stage] + recomputed,
            loss_bytes(config) if has_loss else 0.0,
            zero_buffers(config, parameters, layout.replicas),
        )
        stages.append((parameters, memory))
    step = plan_step(config, layout, cluster, timeline, max(parameters for parameters, _ in stages))
    return Plan(config, cluster, layout, tuple(stages), timeline, step)


def check_memory(plan: Plan) -> None:
    """Raise LayoutError, which says by how much, where a rank needs more than `USABLE` of its GPU's memory."""
    if not plan.fits:
        limit = USABLE * plan.cluster.gpu.memory
        raise LayoutError(
            f"a rank needs {plan.memory / GIB:.1f} GiB, which is {(plan.memory - limit) / GIB:.1f} GiB more than "
            f"{USABLE:.0%} of its GPU's {plan.cluster.gpu.memory / GIB:.1f} GiB; see the advice, or `elm plan --search`"
        )

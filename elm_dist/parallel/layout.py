"""How a run's processes divide into pipeline stages and replicas, and its batch into micro-batches. Needs no torch."""

from dataclasses import dataclass

from elm_dist.config import Config
from elm_dist.errors import LayoutError


@dataclass(frozen=True)
class Layout:
    """One process's place: `stage` of `stages`, in `replica` of `replicas`.

    A step's global batch is cut into micro-batches numbered 0, 1, ...; replica r computes the `accumulation` of them
    from r x accumulation on. Which samples a micro-batch holds does not depend on the layout.
    """

    rank: int
    stages: int
    replicas: int
    accumulation: int
    micro_batch_size: int

    @property
    def stage(self) -> int:
        return self.rank // self.replicas

    @property
    def replica(self) -> int:
        return self.rank % self.replicas

    @property
    def world_size(self) -> int:
        return self.stages * self.replicas

    @property
    def is_first_stage(self) -> bool:
        return self.stage == 0

    @property
    def is_last_stage(self) -> bool:
        return self.stage == self.stages - 1

    @property
    def micro_batches(self) -> range:
        """The numbers of this replica's micro-batches in the global batch."""
        return range(self.replica * self.accumulation, (self.replica + 1) * self.accumulation)

    def rank_of_stage(self, stage: int) -> int:
        """Return the rank that holds `stage` of this replica."""
        return stage * self.replicas + self.replica

    def __str__(self) -> str:
        return (
            f"{self.world_size} processes = {self.stages} pipeline stages x {self.replicas} replicas, "
            f"{self.accumulation} micro-batches of {self.micro_batch_size} images each"
        )


def plan_layout(config: Config, world_size: int, rank: int = 0) -> Layout:
    """Return the layout of `rank` among `world_size` processes. Raises LayoutError where they do not divide."""
    stages, schedule = config.parallel.pipeline_stages, config.schedule
    if world_size % stages:
        raise LayoutError(
            f"{world_size} processes cannot form pipelines of parallel.pipeline_stages={stages}; start a multiple of "
            f"{stages} processes, or set parallel.pipeline_stages to a divisor of {world_size}"
        )
    replicas = world_size // stages
    if schedule.global_batch_size % (schedule.micro_batch_size * replicas):
        raise LayoutError(
            f"schedule.global_batch_size={schedule.global_batch_size} does not divide over {replicas} replicas with "
            f"schedule.micro_batch_size={schedule.micro_batch_size}; make it a multiple of "
            f"{schedule.micro_batch_size * replicas}, or choose a smaller micro-batch"
        )
    accumulation = schedule.global_batch_size // (schedule.micro_batch_size * replicas)
    return Layout(rank, stages, replicas, accumulation, schedule.micro_batch_size)

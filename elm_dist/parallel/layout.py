"""How a run's processes divide into pipeline stages and replicas, and its batch into micro-batches. Needs no torch."""

from dataclasses import dataclass

from elm_dist.config import Config
from elm_dist.errors import LayoutError
from elm_dist.parallel.partition import choose_schedule


@dataclass(frozen=True)
class Layout:
    """One process's place: `stage` of `stages`, in `replica` of `replicas`.

    A step's global batch is cut into micro-batches numbered 0, 1, ...; replica r computes the `accumulation` of them
    from r x accumulation on. Which samples a micro-batch holds does not depend on the layout.

    The model is cut into `parts`: one for each stage, or two for each in the schedules whose parts go down the stages
    and up again in a V.
    """

    rank: int
    stages: int
    replicas: int
    accumulation: int
    micro_batch_size: int
    schedule: str = "1f1b"

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
    def peers(self) -> list[list[int]]:
        """The ranks of each stage, which compute with the same weights."""
        return [list(range(stage * self.replicas, (stage + 1) * self.replicas)) for stage in range(self.stages)]

    @property
    def is_folded(self) -> bool:
        """Whether a stage holds two parts of the model."""
        return self.stages > 1 and self.schedule != "1f1b"

    @property
    def parts(self) -> int:
        return self.stages * (2 if self.is_folded else 1)

    @property
    def my_parts(self) -> tuple[int, ...]:
        """The parts of the model that this stage holds."""
        return (self.stage, self.parts - 1 - self.stage) if self.is_folded else (self.stage,)

    @property
    def has_first_part(self) -> bool:
        """Whether this stage embeds the codes."""
        return 0 in self.my_parts

    @property
    def has_last_part(self) -> bool:
        """Whether this stage computes the loss."""
        return self.parts - 1 in self.my_parts

    @property
    def micro_batches(self) -> range:
        """The numbers of this replica's micro-batches in the global batch."""
        return range(self.replica * self.accumulation, (self.replica + 1) * self.accumulation)

    def rank_of_part(self, part: int) -> int:
        """Return the rank that holds `part` of this replica's model."""
        return min(part, self.parts - 1 - part if self.is_folded else part) * self.replicas + self.replica

    def __str__(self) -> str:
        scheduled = f" ({self.schedule})" if self.stages > 1 else ""
        return (
            f"{self.world_size} processes = {self.stages} pipeline stages{scheduled} x {self.replicas} replicas, "
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
    asked = config.parallel.schedule
    name = choose_schedule(config, accumulation) if asked == "auto" else asked
    layout = Layout(rank, stages, replicas, accumulation, schedule.micro_batch_size, name)
    if layout.is_folded and accumulation < layout.parts:
        raise LayoutError(
            f"parallel.schedule={layout.schedule} needs {layout.parts} micro-batches or more for {stages} pipeline "
            f"stages, and each replica has {accumulation}; make schedule.micro_batch_size smaller, or set "
            "parallel.schedule=1f1b"
        )
    return layout

"""Which process am I? The only reader of the launchers' environment variables, and the only importer of mpi4py.

`deepspeed` and `torchrun` set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; `srun` has variables of its
own, `mpirun` a library. A plain `python` run has none of them and is a world of one process. MASTER_ADDR and
MASTER_PORT, where they are set, go before what `srun` and `mpirun` say.
"""

import os
import re
import socket
from dataclasses import dataclass

from elm_dist.devices import choose_device
from elm_dist.errors import LayoutError

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SLURM_VARIABLES = (
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"),
    *("SLURM_STEP_NODELIST", "SLURM_JOB_ID", "SLURM_STEP_ID"),
)
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # set by mpirun of Open MPI; of MPICH and Intel MPI
_SLURM_PORTS = range(15_000, 32_000)  # below those that Linux gives away by itself


@dataclass(frozen=True)
class ProcessEnvironment:
    """This process's place among all processes of the run."""

    rank: int
    local_rank: int  # among the processes of this machine; the number of its GPU
    world_size: int
    master_address: str
    master_port: int
    source: str  # who said all this, for the log

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes logs."""
        return self.rank == 0

    def export(self) -> None:
        """Set the variables, for libraries that read them themselves."""
        values = (self.rank, self.local_rank, self.world_size, self.master_address, self.master_port)
        os.environ.update({name: str(value) for name, value in zip(_VARIABLES, values, strict=True)})

    def choose_device(self, device: str) -> None:
        """Tell DeepSpeed, before it is imported, which device to take: "auto", "cpu" or "cuda"."""
        os.environ["DS_ACCELERATOR"] = choose_device(device).type


def process_environment() -> ProcessEnvironment:
    """Read this process's place.

    Raises LayoutError when a launcher's variables are incomplete, no numbers, or would make each of srun's processes a
    run of its own.
    """
    place = (
        _launched()
        or _in_slurm_step()
        or _in_mpi_world()
        or ProcessEnvironment(0, 0, 1, "127.0.0.1", free_port(), "no launcher")
    )
    if place.world_size == 1 and (tasks := os.environ.get("SLURM_STEP_NUM_TASKS", "1")) != "1":
        raise LayoutError(
            f"`srun` started {tasks} processes, but {place.source} says that this is the only one, so that each would "
            "train by itself; unset RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the job, or start one "
            "process with `srun --ntasks=1`"
        )
    return place


def _launched() -> ProcessEnvironment | None:
    """Return what `deepspeed`, `torchrun`, or whoever else sets torch's own variables, says."""
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return None
    found = _read(_VARIABLES, "start with `deepspeed` or `torchrun`, or unset them all for a run of one process")
    rank, local_rank, world_size, port = _numbers(found, ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"))
    return ProcessEnvironment(rank, local_rank, world_size, found["MASTER_ADDR"], port, "RANK, WORLD_SIZE, ...")


def _in_slurm_step() -> ProcessEnvironment | None:
    """Return what `srun` says; a batch script itself is no step, and so one process."""
    if "SLURM_STEP_NUM_TASKS" not in os.environ:
        return None
    found = _read(_SLURM_VARIABLES, "start with `srun`")
    rank, local_rank, world_size, job, step = _numbers(
        found, ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID", "SLURM_STEP_ID")
    )
    port = _SLURM_PORTS[(64 * job + step) % len(_SLURM_PORTS)]  # alike on all nodes, and no other job's
    host = first_host(found["SLURM_STEP_NODELIST"])
    return ProcessEnvironment(rank, local_rank, world_size, *_master(host, port), "srun (SLURM_PROCID, ...)")


def _in_mpi_world() -> ProcessEnvironment | None:
    """Return what `mpirun` says, through mpi4py."""
    sizes = [int(os.environ[name]) for name in _MPI_SIZES if os.environ.get(name, "").isdecimal()]
    if not sizes:
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # it is not there, or finds no libmpi
        raise LayoutError(
            f"`mpirun` started this process, but mpi4py cannot be used ({error}); install elm-dist[mpi], or start with "
            "`torchrun` or `srun`"
        ) from None
    world = MPI.COMM_WORLD
    if world.size != sizes[0]:
        raise LayoutError(
            f"`mpirun` started {sizes[0]} processes, but mpi4py sees {world.size}: it loaded another MPI than the "
            "launcher's; use the `mpirun` of the environment that mpi4py is in"
        )
    neighbours = world.Split_type(MPI.COMM_TYPE_SHARED)
    is_one_machine = world.allreduce(neighbours.size, MPI.MIN) == world.size
    host = "127.0.0.1" if is_one_machine else socket.gethostname()
    address, port = world.bcast(_master(host, free_port()))
    return ProcessEnvironment(world.rank, neighbours.rank, world.size, address, port, "mpirun (mpi4py)")


def first_host(nodes: str) -> str:
    """Return the first of SLURM's list of nodes: "gpu03" of "gpu[03-05,07],cpu1"."""
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", nodes).split(",")[0]


def _master(host: str, port: int) -> tuple[str, int]:
    """Return where rank 0 listens: what the user set, or else this."""
    return os.environ.get("MASTER_ADDR", host), _numbers({"MASTER_PORT": str(port), **os.environ}, ("MASTER_PORT",))[0]


def _read(names: tuple[str, ...], remedy: str) -> dict[str, str]:
    found = {name: os.environ[name] for name in names if name in os.environ}
    if missing := [name for name in names if name not in found]:
        raise LayoutError(f"the environment sets {', '.join(found)} but not {', '.join(missing)}; {remedy}")
    return found


def _numbers(found: dict[str, str], names: tuple[str, ...]) -> list[int]:
    try:
        return [int(found[name]) for name in names]
    except ValueError as error:
        raise LayoutError(f"{', '.join(names)} must be whole numbers ({error})") from None


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

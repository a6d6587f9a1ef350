"""Which process am I? The only reader of the launchers' environment variables.

`deepspeed` and `torchrun` set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; a plain `python` run sets
none of them and is a world of one process.
"""

import os
import socket
from dataclasses import dataclass

from elm_dist.devices import choose_device
from elm_dist.errors import LayoutError

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ProcessEnvironment:
    """This process's place among all processes of the run."""

    rank: int
    local_rank: int  # among the processes of this machine; the number of its GPU
    world_size: int
    master_address: str
    master_port: int

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
    """Read this process's place. Raises LayoutError when only some of the variables are set or one is no number."""
    found = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if "RANK" not in found and "WORLD_SIZE" not in found:
        return ProcessEnvironment(0, 0, 1, "127.0.0.1", free_port())
    missing = [name for name in _VARIABLES if name not in found]
    if missing:
        raise LayoutError(
            f"the environment sets {', '.join(found)} but not {', '.join(missing)}; start with `deepspeed` or "
            "`torchrun`, or unset them all for a run of one process"
        )
    try:
        rank, local_rank, world_size, port = (
            int(found[n]) for n in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
        )
    except ValueError as error:
        raise LayoutError(f"RANK, LOCAL_RANK, WORLD_SIZE and MASTER_PORT must be whole numbers ({error})") from None
    return ProcessEnvironment(rank, local_rank, world_size, found["MASTER_ADDR"], port)


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

"""Starts real processes that join over gloo, or NCCL on GPUs, as a launcher would, and waits for them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WORKERS = Path(__file__).parent


@contextmanager
def processes_of(world_size: int, arguments: list[str], device: str = "cpu") -> Iterator[list[subprocess.Popen[str]]]:
    """Run `python ARGUMENTS` once per rank, with everything they print in `stdout`; what still runs in the end dies."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ
            | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
                "DS_ACCELERATOR": device,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_processes(world_size: int, arguments: list[str], timeout: float = 240, device: str = "cpu") -> None:
    """Run `python ARGUMENTS` once per rank and fail with what they printed if one of them fails."""
    with processes_of(world_size, arguments, device) as processes:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    failed = [f"--- rank {rank}\n{outputs[rank]}" for rank, process in enumerate(processes) if process.returncode]
    assert not failed, "\n".join(failed)

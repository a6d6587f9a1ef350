"""Starts real processes that join over gloo, as a launcher would, and waits for them."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_processes(world_size: int, arguments: list[str], timeout: float = 240) -> None:
    """Run `python ARGUMENTS` once per rank and fail with what they printed if one of them fails."""
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
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    outputs = []
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    failed = [f"--- rank {rank}\n{outputs[rank]}" for rank, process in enumerate(processes) if process.returncode]
    assert not failed, "\n".join(failed)


WORKERS = Path(__file__).parent

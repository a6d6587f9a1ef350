"""How much memory this process has used. Knows nothing of other processes."""

import resource

import torch


def peak_memory(device: torch.device) -> int:
    """Return this process's largest use of its GPU so far, or of main memory where it has none, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB

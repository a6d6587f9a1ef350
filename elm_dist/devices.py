"""Which device to compute on."""

from typing import TYPE_CHECKING

from elm_dist.errors import LayoutError

if TYPE_CHECKING:
    import torch


def choose_device(wanted: str) -> "torch.device":
    """Return the device for "cpu", "cuda", or "auto", a GPU where there is one; LayoutError for a GPU that is not."""
    import torch  # here, so that configurations can be read where torch is not installed

    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise LayoutError("parallel.device=cuda, but torch sees no GPU here; set parallel.device=auto or =cpu")
    return torch.device("cuda" if wanted != "cpu" and has_gpu else "cpu")


def own_device(wanted: str, local_rank: int) -> "torch.device":
    """Return the device of process `local_rank` of this machine: a GPU of its own, or what `choose_device` says."""
    import torch

    device = choose_device(wanted)
    return torch.device("cuda", local_rank % torch.cuda.device_count()) if device.type == "cuda" else device

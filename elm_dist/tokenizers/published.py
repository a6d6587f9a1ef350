"""Reads files of weights that others have published, without running the code that such a file may hold."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from elm_dist.errors import TokenizerError


def load_published(path: Path) -> Any:
    """Return what a file of torch's holds, on the CPU; raises TokenizerError unless that is tensors and plain data.

    Trainings put the options of their command line beside them, a `Namespace`, which has no code of its own.
    """
    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise TokenizerError(f"{path}: this file cannot be read ({error.strerror}); give a file of weights") from None
    except Exception:  # what a stranger's file makes of the reader has no common type
        raise TokenizerError(
            f"{path}: this file holds code beside its tensors, or is damaged, and is not opened; download it again or, "
            "where you trust it, save what torch.load(FILE, weights_only=False)['state_dict'] gives with torch.save"
        ) from None

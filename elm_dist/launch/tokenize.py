"""The job behind `elm tokenize`: a trained tokenizer from its folder, images in, shards out, on many processes.

Started by itself it is one process; started by `torchrun` it is one of several, which share the shards out by number.
"""

import logging
from pathlib import Path

from elm_dist.checkpoint.tokenizer import load_tokenizer, tokenizer_fingerprint
from elm_dist.data.encode import encode_images
from elm_dist.data.shards import Payload, Views
from elm_dist.devices import own_device
from elm_dist.monitoring.speedometer import Speedometer
from elm_dist.parallel.environment import process_environment

log = logging.getLogger(__name__)


def tokenize_images(
    images: Path,
    tokenizer: Path,
    out: Path,
    *,
    batch_size: int,
    seed: int,
    flip: bool,
    views: Views = "centre",
    payload: Payload = "bits",
    max_broken: float = 0.01,
) -> None:
    """Encode the images of a folder with the tokenizer in another; goes on where killed processes stopped.

    Raises an ElmError if the tokenizer, the images or what is in `out` cannot be used.
    """
    process = process_environment()
    device = own_device("auto", process.local_rank)
    model, fingerprint = load_tokenizer(tokenizer, device), tokenizer_fingerprint(tokenizer)
    with Speedometer("tokenizing", process.rank, process.world_size) as speedometer:
        manifest = encode_images(
            images,
            model,
            fingerprint,
            out,
            batch_size=batch_size,
            seed=seed,
            flip=flip,
            views=views,
            payload=payload,
            max_broken=max_broken,
            progress=speedometer.show,
            rank=process.rank,
            world_size=process.world_size,
        )
    if manifest is not None:
        counts = ", ".join(f"{manifest.samples(split):,} {split}" for split in manifest.splits)
        log.info("%s: %s samples of %s codes", out, counts, manifest.grid)

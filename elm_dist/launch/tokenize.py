"""The job behind `elm tokenize`: a trained tokenizer from its folder, images in, shards out, a bar in between."""

import logging
from pathlib import Path

from rich.progress import Progress

from elm_dist.checkpoint.tokenizer import load_tokenizer, tokenizer_fingerprint
from elm_dist.data.encode import encode_images
from elm_dist.devices import choose_device

log = logging.getLogger(__name__)


def tokenize_images(images: Path, tokenizer: Path, out: Path, *, batch_size: int, seed: int, flip: bool) -> None:
    """Encode the images of a folder with the tokenizer in another; goes on where a killed run stopped."""
    bae, fingerprint = load_tokenizer(tokenizer, choose_device("auto")), tokenizer_fingerprint(tokenizer)
    with Progress(transient=True) as progress:
        task = progress.add_task("tokenizing", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        manifest = encode_images(
            images, bae, fingerprint, out, batch_size=batch_size, seed=seed, flip=flip, progress=show
        )
    counts = ", ".join(f"{manifest.samples(split):,} {split}" for split in manifest.splits)
    log.info("%s: %s samples of %d x %d codes", out, counts, manifest.grid, manifest.grid)

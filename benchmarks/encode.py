"""What bounds `elm tokenize`: the encoder alone, the loading of images alone, and both in the whole of `encode_images`.

    python benchmarks/encode.py [--images 512]

The images are drawn here, JPEG files of 500 x 375 pixels with detail at every scale, and are cut to 256 x 256. The
tokenizer is a BAE small enough for loading to matter: beside one of the paper's size, on a CPU, no loader is slow. The
encoder has one thread and, alone, images that are ready in memory; loading alone has one thread too. They take turns,
because machines differ and so do their hours; the ratios are medians of those within a turn.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from elm_dist.config import TokenizerConfig
from elm_dist.data.encode import encode_images
from elm_dist.data.samples import Samples, list_samples
from elm_dist.data.shards import Split
from elm_dist.tokenizers.bae import BAE

BATCH = 16
ROUNDS = 5
WIDTH, HEIGHT = 500, 375  # about the mean of ImageNet


def draw_image(random: np.random.Generator) -> Image.Image:
    """Return noise of all scales, the coarser the stronger, as photographs have it."""
    pixels = np.zeros((HEIGHT, WIDTH, 3))
    for octave in range(8):
        coarse = Image.fromarray(random.integers(0, 256, (3 * 2**octave, 4 * 2**octave, 3), dtype=np.uint8))
        pixels += np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) * 0.5 ** (octave + 1)
    return Image.fromarray(pixels.astype(np.uint8))


def write_images(root: Path, count: int) -> None:
    """Write half of the images into each of two classes for training; one of each class is for validation."""
    random = np.random.default_rng(0)
    for number in range(count + 2):
        folder = root / ("train" if number < count else "validation") / f"class_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        draw_image(random).save(folder / f"{number:05d}.jpg", quality=90)


def build_tokenizer() -> BAE:
    torch.manual_seed(0)
    config = TokenizerConfig(
        directory=Path("unused"),
        patch_size=8,
        base_channels=32,
        channel_multipliers=(1, 2),
        res_blocks=1,
        attention_resolutions=(),
        embedding_channels=64,
    )
    return BAE(config).eval()


def encode_alone(tokenizer: BAE, images: torch.Tensor) -> None:
    """Encode images (count, 3, 256, 256) that are there already, as `encode_images` does it with those it reads."""
    for start in range(0, len(images), BATCH):
        tokenizer.image_codes(images[start : start + BATCH].float() / 255)


def load_alone(splits: dict[Split, Samples]) -> None:
    for samples in splits.values():
        for start in range(0, len(samples), BATCH):
            samples.part(slice(start, start + BATCH)).load()


def encode_whole(tokenizer: BAE, root: Path) -> None:
    with tempfile.TemporaryDirectory() as out:
        encode_images(
            root,
            tokenizer,
            "benchmark",
            Path(out),
            batch_size=BATCH,
            seed=0,
            flip=False,
            views="centre",
            payload="bits",
            max_broken=0.0,
            progress=lambda done, total: None,
        )


def speed(work: Callable[[], None], images: int) -> float:
    start = time.perf_counter()
    work()
    return images / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512, help="how many; default %(default)s")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns; default %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count, tokenizer = arguments.images + 2, build_tokenizer()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_images(root, arguments.images)
        samples = list_samples(root, tokenizer.config.image_size, 0, flip=False, views="centre")
        ready = torch.from_numpy(np.concatenate([part.load().images for part in samples.values()]))
        ready = ready.permute(0, 3, 1, 2).contiguous()
        ways: dict[str, Callable[[], None]] = {
            "encoder alone": lambda: encode_alone(tokenizer, ready),
            "loading alone": lambda: load_alone(samples),
            "the whole": lambda: encode_whole(tokenizer, root),
        }
        turns = [{name: speed(way, count) for name, way in ways.items()} for _ in range(arguments.rounds)]
    report(turns, count)


def report(turns: list[dict[str, float]], count: int) -> None:
    print(f"images/s of {count} images, medians of {len(turns)} turns; {os.cpu_count()} cores, encoder on one thread")
    for name in turns[0]:
        print(f"{name:<16}{median(turn[name] for turn in turns):>10,.1f}")
    whole = median(turn["the whole"] / turn["encoder alone"] for turn in turns)
    one_by_one = median(1 / (1 + turn["encoder alone"] / turn["loading alone"]) for turn in turns)
    print(f"the whole is {whole:.2f} of the encoder alone; one after the other would be {one_by_one:.2f}")


if __name__ == "__main__":
    main()

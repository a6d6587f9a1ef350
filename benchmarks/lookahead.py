"""What drawing several positions at once saves of a trained run's sampling: passes, and time on a CPU.

    python benchmarks/lookahead.py RUN [--images 16 --windows 2,4,8,16 --batches 1,8]

One thread, CPU time, the precision of the run's `sampling:`. Each batch is drawn one position a pass and with a window
of several, which take turns in going first. Reported are the passes of the model that a batch takes, the median of the
batches' ratios of time, and the share of images whose codes are the same. The run's settings come first, then less
random ones: temperature 0.7 in a nucleus of 0.9, and the likeliest entry always.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor

from elm_dist.config import SamplingConfig
from elm_dist.sampling.painter import Painter, load_painter

SETTINGS = {"the run's": {}, "0.7, top_p 0.9": {"temperature": 0.7, "top_p": 0.9}, "likeliest": {"top_k": 1}}


def draw(painter: Painter, sampling: SamplingConfig, images: range) -> tuple[Tensor, int, float]:
    """Return the codes of images of all classes in turn, the passes that drew them, and the CPU seconds."""
    progress: list[int] = []
    labels = [image % painter.config.model.num_classes for image in images]
    begin = time.process_time()
    codes = painter.draw(
        labels, images, sampling=sampling, on_progress=lambda codes, is_done: progress.append(int(is_done.sum()))
    )
    return codes, len(progress), time.process_time() - begin


def measure(painter: Painter, sampling: SamplingConfig, window: int, images: int, batch: int) -> list[float]:
    """Return the mean passes of a batch, the median ratio of time, and the share of equal images."""
    passes, ratios, equal = [], [], 0
    for number, first in enumerate(range(0, images, batch)):
        order = (1, window) if number % 2 else (window, 1)
        some = range(first, min(first + batch, images))
        drawn = {size: draw(painter, sampling.model_copy(update={"lookahead": size}), some) for size in order}
        (codes, _, alone), (others, count, together) = drawn[1], drawn[window]
        passes.append(count)
        ratios.append(together / alone)
        equal += int((codes == others).flatten(1).all(dim=1).sum())
    return [statistics.mean(passes), statistics.median(ratios), 100 * equal / images]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=16)
    for name, default in {"windows": "2,4,8,16", "batches": "1,8"}.items():
        parser.add_argument(f"--{name}", type=lambda text: [int(part) for part in text.split(",")], default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    painter = load_painter(options.run)
    draw(painter, painter.config.sampling, range(1))  # what is made at the first call is not measured
    print(f"{painter.shape.positions} positions, step {painter.step}")
    print(f"{'settings':<16}{'batch':>6}{'window':>8}{'passes':>9}{'CPU time':>10}{'same images':>13}")
    for name, changes in SETTINGS.items():
        sampling = painter.config.sampling.model_copy(update=changes)
        for batch in options.batches:
            for window in options.windows:
                passes, ratio, equal = measure(painter, sampling, window, options.images, batch)
                print(f"{name:<16}{batch:>6}{window:>8}{passes:>9.1f}{ratio:>10.2f}{equal:>12.0f}%")


if __name__ == "__main__":
    main()

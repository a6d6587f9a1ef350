"""Which images are to be drawn, in which order, and by which process. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path

from elm_dist.randomness import derive_seed


@dataclass(frozen=True)
class ImageRequest:
    """One image to draw: number `index` of class `label`."""

    label: int
    index: int

    def seed(self, seed: int) -> int:
        """Return what decides the image, whatever else is drawn with it; no two requests share it."""
        return derive_seed(seed, "image", self.label, self.index)

    @property
    def path(self) -> Path:
        return Path(f"class_{self.label:04d}") / f"{self.index:05d}.png"


def list_requests(labels: list[int], per_class: int) -> list[ImageRequest]:
    """Return the first image of each class, then the second of each: every stretch of them has all classes alike.

    The inception score of ADM is a mean over stretches of 5,000 images, and would be too low if they came class by
    class.
    """
    return [ImageRequest(label, index) for index in range(per_class) for label in labels]


def list_batches(
    requests: list[ImageRequest], batch_size: int, rank: int = 0, world_size: int = 1
) -> list[list[ImageRequest]]:
    """Return this process's batches.

    How requests fall into batches depends on neither the processes nor on what is drawn already: a matrix product
    rounds by the size of its batch, and so a restart or another number of processes must not change it.
    """
    batches = [requests[begin : begin + batch_size] for begin in range(0, len(requests), batch_size)]
    return batches[rank::world_size]

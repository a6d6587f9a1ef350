"""The images that the tokenizer is trained and measured on, as tensors. Knows nothing of networks and updates."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from elm_dist.config import Config
from elm_dist.data.images import ImageFolder, has_split
from elm_dist.errors import ImageError
from elm_dist.evaluation.reconstruction import ReconstructionScore, compute_mean_image, measure_reconstruction
from elm_dist.parallel.replicas import Replicas
from elm_dist.randomness import generator, uniforms
from elm_dist.tokenizers.build import Tokenizer

MEAN_IMAGES = 512  # training images that the mean image is computed from
GRID_IMAGES = 8


def load_batches(config: Config, first_step: int, device: torch.device, replicas: Replicas) -> Iterator[Tensor]:
    """Yield this process's images of each step from `first_step` to the last, (share, 3, H, W) in [0, 1] on `device`.

    Raises ImageError if the folder or an image in it cannot be used.
    """
    training = config.tokenizer_training
    images = ImageFolder(training.images, "train", config.tokenizer.image_size)
    batches = DataLoader(
        StepImages(images, training.batch_size, replicas.share(training.batch_size), config.run.seed),
        sampler=range(first_step, training.total_steps),
        batch_size=None,  # an item is a batch already
        num_workers=training.loader_workers,
    )
    for batch in batches:
        if isinstance(batch, ImageError):
            raise batch
        yield _to_unit_range(batch, device)


class StepImages(Dataset[NDArray[np.uint8] | ImageError]):
    """The images of `share` in the batch of each step, (share, H, W, 3): shuffled each epoch, half of them mirrored.

    A pure function of (seed, step). An unreadable image makes the step its ImageError, which is for the reader to
    raise: a worker process would bury the sentence in its own traceback.
    """

    def __init__(self, images: ImageFolder, batch_size: int, share: range, seed: int) -> None:
        self.images, self.batch_size, self.share, self.seed = images, batch_size, share, seed
        self._orders: dict[int, NDArray[np.int64]] = {}  # of the epochs that the latest step reads

    def __getitem__(self, step: int) -> NDArray[np.uint8] | ImageError:
        samples = step * self.batch_size + np.array(self.share)  # counted through all epochs
        epochs, places = (array.tolist() for array in np.divmod(samples, len(self.images)))
        self._orders = {epoch: self._order(epoch) for epoch in set(epochs)}
        mirrored = uniforms(self.seed, "tokenizer flips", samples) < 0.5
        try:
            images = [self.images[self._orders[epoch][place]][0] for epoch, place in zip(epochs, places, strict=True)]
        except ImageError as error:
            return error
        return np.stack([image[:, ::-1] if mirror else image for image, mirror in zip(images, mirrored, strict=True)])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch in self._orders:
            return self._orders[epoch]
        return generator(self.seed, "tokenizer order", epoch).permutation(len(self.images))


class Exam:
    """What a tokenizer is measured on: validation images or, where there are none, training images."""

    def __init__(self, config: Config, device: torch.device) -> None:
        root, size = config.tokenizer_training.images, config.tokenizer.image_size
        self.split = "validation" if has_split(root, "validation") else "train"
        self._device, self._batch_size = device, config.tokenizer_training.batch_size
        self._images = ImageFolder(root, self.split, size)
        self._mean_image = compute_mean_image(self._batches(ImageFolder(root, "train", size), MEAN_IMAGES))

    def score(self, tokenizer: Tokenizer, count: int) -> ReconstructionScore:
        """Measure `tokenizer` on `count` images, or on all if there are fewer."""
        return measure_reconstruction(tokenizer, self._batches(self._images, count), self._mean_image)

    def grid(self, tokenizer: Tokenizer) -> NDArray[np.uint8]:
        """Return a picture (3, height, width): images in the upper row, what `tokenizer` makes of them in the lower."""
        images = torch.cat(list(self._batches(self._images, GRID_IMAGES)))
        reconstructions = tokenizer.images_from_codes(tokenizer.image_codes(images))
        rows = [torch.cat(list(row), dim=2) for row in (images, reconstructions)]
        return (torch.cat(rows, dim=1) * 255).round().byte().cpu().numpy()

    def _batches(self, images: ImageFolder, count: int) -> Iterator[Tensor]:
        """Yield `count` images spread evenly over the folder, and so over its classes."""
        count = min(count, len(images))
        chosen = np.arange(count) * len(images) // count
        for first in range(0, count, self._batch_size):
            batch = np.stack([images[index][0] for index in chosen[first : first + self._batch_size]])
            yield _to_unit_range(torch.from_numpy(batch), self._device)


def _to_unit_range(batch: Tensor, device: torch.device) -> Tensor:
    return batch.to(device).permute(0, 3, 1, 2).contiguous().float() / 255

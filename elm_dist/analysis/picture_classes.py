"""Which classes a set of pictures is said to be of, by its folders or its npz file. Knows nothing of features."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elm_dist.analysis.picture_sets import PictureSet, class_name, read_sampling
from elm_dist.errors import EvaluationError


def describe_samples(pictures: PictureSet) -> dict[str, Any]:
    """Return everything that is known of samples before they are measured, as JSON knows it.

    Raises EvaluationError if what `elm sample` wrote down beside them is damaged.
    """
    return pictures.facts() | {
        "images": len(pictures),
        "image_size": list(pictures.size),
        "classes": _describe_classes(pictures.classes()),
        "sampling": read_sampling(pictures.path),
    }


def read_labels(pictures: PictureSet, names: list[str], images: Path) -> NDArray[np.int64]:
    """Return the class (n,) that each of `pictures` was meant to be of, a place in the `names` of those of `images`.

    Raises EvaluationError where the pictures do not say it, or name other classes.
    """
    classes = pictures.classes()
    if classes is None:
        raise EvaluationError(
            f"{pictures.path}: it does not say of which class each image is; put the images into folders class_0000 "
            "and on, as `elm sample` does, or give an npz file that has arr_1"
        )
    numbers = {name: label for label, name in enumerate(names)}
    numbers |= {class_name(label): label for label in range(len(names))}
    if unknown := sorted(set(classes) - numbers.keys()):
        raise EvaluationError(
            f"{pictures.path}: {unknown[0]} is none of the {len(names)} classes of {images}, class_0000 to "
            f"{class_name(len(names) - 1)} or {names[0]} to {names[-1]}; give the images that the model was trained on"
        )
    return np.array([numbers[name] for name in classes], np.int64)


def _describe_classes(classes: list[str] | None) -> dict[str, Any] | None:
    """Return how even the classes are, and whether they come in turn, as Inception Score wants it; None if untold."""
    if classes is None:
        return None
    counts = Counter(classes)
    rounds = [classes[start : start + len(counts)] for start in range(0, len(classes), len(counts))]
    return {
        "number": len(counts),
        "fewest_images": min(counts.values()),
        "most_images": max(counts.values()),
        "come_in_turn": all(len(set(part)) == len(part) for part in rounds),
    }

"""Inception Score, of class logits that come in batches. Knows nothing of images and nets."""

import torch
from torch import Tensor

SPLIT = 5000  # images


class InceptionScore:
    """exp(mean KL(p(y|x) || p(y))) of each 5,000 images in a row, averaged (Salimans et al. 2016, as ADM computes it).

    p(y) is the mean of the same 5,000, so images must not come class by class. A last stretch that is shorter counts
    like the others. Memory is that of one vector of classes.
    """

    def __init__(self) -> None:
        self._scores: list[float] = []
        self._begin()

    def _begin(self) -> None:
        self._count = 0
        self._total = torch.zeros((), dtype=torch.float64)  # p(y|x), summed
        self._information = 0.0  # sum over y of p(y|x) ln p(y|x), summed

    def update(self, logits: Tensor) -> None:
        """Take the logits (batch, classes) of the next images."""
        room = SPLIT - self._count
        if len(logits) > room:
            self.update(logits[:room])
            self.update(logits[room:])
            return
        shares = logits.double().softmax(dim=1).cpu()
        self._count += len(shares)
        self._total = self._total + shares.sum(dim=0)
        self._information -= torch.special.entr(shares).sum().item()
        if self._count == SPLIT:
            self._end()

    def value(self) -> float:
        """Return the score of all images so far, from 1 to the number of classes; there must be one."""
        if self._count:
            self._end()
        return sum(self._scores) / len(self._scores)

    def _end(self) -> None:
        marginal = torch.special.entr(self._total / self._count).sum()
        self._scores.append((marginal + self._information / self._count).exp().item())
        self._begin()

"""What training minimizes, and what it reports: the cross-entropy of each sub-token, and what is added to it."""

import math
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from elm_dist.codes.packing import unpack_subtokens
from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import LossConfig, ModelConfig
from elm_dist.model.masking import split_mask

PLAIN_LOSS = LossConfig()
HAMMING_DECAY = 3.0  # of the logarithm of a soft label's weight, for each bit that differs


class CodeLoss:
    """Mean loss per sub-token, in nats, computed in fp32; keeps sums per head until they are collected.

    What is kept is the plain cross-entropy, whatever is minimized with it.
    """

    def __init__(self, code_shape: CodeShape, config: LossConfig = PLAIN_LOSS) -> None:
        self.code_shape, self.config = code_shape, config
        self.sums = torch.zeros(0)
        self.reset()

    def reset(self) -> None:
        self.sums = torch.zeros(2 * self.code_shape.subtokens + 1, dtype=torch.float64)

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the loss (a scalar) of logits (batch, positions, subtokens, vocabulary) on rows of packed codes."""
        logits, targets = self.select(logits, rows)
        exact = logits.float()
        losses = F.cross_entropy(exact.flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)
        with torch.no_grad():
            correct = (logits.argmax(dim=-1) == targets).double().flatten(0, -2).sum(dim=0)
            count = correct.new_full((1,), targets[..., 0].numel())
            sums = losses.double().flatten(0, -2).sum(dim=0)
            self.sums = self.sums.to(losses.device) + torch.cat([sums, correct, count])
        return self._minimized(exact, targets, losses).mean()

    def select(self, logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return those logits (..., subtokens, vocabulary) that count and their targets (..., subtokens)."""
        return logits, unpack_subtokens(rows, self.code_shape)

    def _minimized(self, logits: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
        """Return what is minimized for each target in place of, or beside, its cross-entropy `losses`."""
        config = self.config
        if config.hamming_distance:
            losses = hamming_loss(logits, targets, config.hamming_distance)
        if config.label_smoothing:
            losses = torch.lerp(losses, -logits.log_softmax(dim=-1).mean(dim=-1), config.label_smoothing)
        if config.z_loss:
            losses = losses + config.z_loss * logits.logsumexp(dim=-1) ** 2
        return losses


class MaskedCodeLoss(CodeLoss):
    """The loss on the hidden codes alone, all of a micro-batch alike."""

    def select(self, logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        packed, is_hidden = split_mask(rows, self.code_shape)
        return logits[is_hidden], unpack_subtokens(packed, self.code_shape)[is_hidden]


def build_loss(model: ModelConfig, code_shape: CodeShape, config: LossConfig = PLAIN_LOSS) -> CodeLoss:
    """Return the loss of a model's codes."""
    kind = {"autoregressive": CodeLoss, "masked": MaskedCodeLoss}[model.modelling]
    return kind(code_shape, config)


def hamming_loss(logits: Tensor, targets: Tensor, distance: int) -> Tensor:
    """Return the cross-entropy (...) with soft labels: entries within `distance` bits of the target share it.

    An entry that differs in n bits has a weight in proportion to exp(-3 n). The paper tried it, without gain.
    """
    flips, weights = _neighbours((logits.shape[-1] - 1).bit_length(), distance)
    neighbours = targets.unsqueeze(-1) ^ flips.to(targets.device)
    log_probabilities = logits.log_softmax(dim=-1).gather(-1, neighbours)
    return -(log_probabilities * weights.to(logits.device)).sum(dim=-1)


def _neighbours(bits: int, distance: int) -> tuple[Tensor, Tensor]:
    """Return which bits to flip to reach each entry within `distance`, and what each weighs; weights sum to one."""
    flips = [
        (sum(1 << place for place in places), count)
        for count in range(min(distance, bits) + 1)
        for places in combinations(range(bits), count)
    ]
    weights = torch.tensor([math.exp(-HAMMING_DECAY * count) for _, count in flips])
    return torch.tensor([flip for flip, _ in flips]), weights / weights.sum()

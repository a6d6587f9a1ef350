"""A training on data of which global batches 6 to 8 make the loss not a number; takes what train.py takes."""

import sys

import torch
from torch import Tensor

from elm_dist.data.loader import MicroBatch, TokenLoader
from elm_dist.model.loss import CodeLoss
from elm_dist.train import main

ILL = range(6, 9)
is_ill = False
read, compute_loss = TokenLoader.train_micro_batch, CodeLoss.__call__


def read_and_note(self: TokenLoader, step: int, index: int) -> MicroBatch:
    global is_ill
    is_ill = step in ILL
    return read(self, step, index)


def compute_ill_loss(self: CodeLoss, logits: Tensor, packed: Tensor) -> Tensor:
    loss = compute_loss(self, logits, packed)
    if is_ill and torch.is_grad_enabled():
        self.sums *= torch.nan
        return loss * torch.nan
    return loss


if __name__ == "__main__":
    TokenLoader.train_micro_batch = read_and_note
    CodeLoss.__call__ = compute_ill_loss
    sys.exit(main())

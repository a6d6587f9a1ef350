"""A training whose forward passes take 20 ms more than they do, and on the ranks of $SLOW_RANKS 35 % more than that.

Takes what train.py takes.
"""

import os
import sys
import time

from torch import Tensor

from elm_dist.model.loss import CodeLoss
from elm_dist.train import main

compute_loss = CodeLoss.__call__
SECONDS = 0.02 * (1.35 if os.environ["RANK"] in os.environ["SLOW_RANKS"].split(",") else 1)


def compute_slowly(self: CodeLoss, logits: Tensor, packed: Tensor) -> Tensor:
    time.sleep(SECONDS)
    return compute_loss(self, logits, packed)


if __name__ == "__main__":
    CodeLoss.__call__ = compute_slowly
    sys.exit(main())

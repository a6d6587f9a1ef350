"""Processes that each hold the whole of a small model and their share of every batch: what they find out together.

The tokenizer is trained on them. One process by itself joins nobody, and its answers are its own. Knows nothing of
what is trained; ELM itself is divided by the engines of `engine.py`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

# Unused, but imported before any group begins: its functions keep the group that there is at the first import, which
# otherwise comes with an optimizer's first step. Threads of a group that is kept past its end abort some exits.
import torch.distributed.nn
from torch import Tensor, nn

from elm_dist.devices import choose_device
from elm_dist.parallel.environment import ProcessEnvironment


class Replicas:
    """This process as number `rank` of `count` equal ones. All of them must call every method alike."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def share(self, items: int) -> range:
        """Return which of so many items are this process's: consecutive ones, equally many for each process."""
        assert items % self.count == 0, f"{items} items do not divide over {self.count} processes"
        each = items // self.count
        return range(self.rank * each, (self.rank + 1) * each)

    def average(self, tensor: Tensor) -> Tensor:
        """Return the mean of everybody's `tensor`, through which gradients flow back to all of them."""
        return _Average.apply(tensor, self.count) if self.count > 1 else tensor

    def sum(self, tensor: Tensor) -> Tensor:
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def minimum(self, tensor: Tensor) -> Tensor:
        return self._reduced(tensor, dist.ReduceOp.MIN)

    def any(self, here: bool, device: torch.device) -> bool:
        """Return whether `here` is true on any process."""
        return bool(self._reduced(torch.tensor(int(here), device=device), dist.ReduceOp.MAX).item())

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the mean of the gradients, in one message."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = (flat / self.count).split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])

    def _reduced(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.count == 1:
            return tensor
        result = tensor.clone()
        dist.all_reduce(result, op=operation)
        return result


class _Average(torch.autograd.Function):
    """The mean over processes; its gradient is the mean of theirs, as each process's loss is a part of one mean."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: Tensor, count: int) -> Tensor:
        ctx.count = count  # type: ignore[attr-defined]
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total / count

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total / ctx.count, None  # type: ignore[attr-defined]


@contextmanager
def join_replicas(environment: ProcessEnvironment, device: str, timeout_minutes: float) -> Iterator[Replicas]:
    """Join the other processes of the run (NCCL between GPUs, gloo between CPUs) and leave them in the end.

    `device` is "auto", "cpu" or "cuda". Raises TrainingError if there is no such device.
    """
    if environment.world_size == 1:
        yield Replicas()
        return
    environment.export()
    backend = "gloo"
    if choose_device(device).type == "cuda":
        torch.cuda.set_device(environment.local_rank)
        backend = "nccl"
    dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    try:
        yield Replicas(environment.rank, environment.world_size)
    finally:
        dist.destroy_process_group()

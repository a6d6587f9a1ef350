"""The tensors of a run by name, whole or this rank's piece of them, whatever ZeRO made of them.

A parameter has several: its fp32 master weight ("weights") and the optimizer's entries of its shape ("exp_avg",
"exp_avg_sq", "ema"). DeepSpeed keeps them in flat partitions; here they have their canonical names and shapes again.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WEIGHTS = "weights"


class OptimizerState:
    """The master weights and optimizer entries that this rank and the other replicas of its stage hold together."""

    def __init__(
        self,
        engine: Any,
        parameters: dict[str, nn.Parameter],
        initial_state: Callable[[Tensor], dict[str, Tensor]],
    ) -> None:
        self._parameters = parameters
        self._wrapper, self._optimizer = engine.optimizer, engine.basic_optimizer
        for master in self.masters():
            self._optimizer.state[master] = initial_state(master)
        # Stages 1 and 2 link parameters to the entries at the first step; do it now, the entries are complete.
        link = getattr(self._wrapper, "_lazy_init_hp_params_optimizer_state", None)
        if link is not None:
            link()
        entries = self._optimizer.state[self.masters()[0]]
        self.kinds = [WEIGHTS, *(key for key, value in entries.items() if value.ndim)]

    @property
    def names(self) -> list[str]:
        return list(self._parameters)

    def masters(self) -> list[Tensor]:
        """Return the tensors that the optimizer steps: parameters, or this rank's flat fp32 partitions of them."""
        partitions = getattr(self._wrapper, "fp32_partitioned_groups_flat", None)  # ZeRO 3
        if partitions is not None:
            return list(partitions)
        return [master for group in self._optimizer.param_groups for master in group["params"]]

    def entries(self, key: str) -> list[Tensor]:
        """Return one of the optimizer's entries for each of `masters()`."""
        return [self._optimizer.state[master][key] for master in self.masters()]

    def set_step(self, step: int) -> None:
        """Set the count of updates by which AdamW corrects its moments."""
        for master in self.masters():
            if "step" in self._optimizer.state[master]:
                self._optimizer.state[master]["step"].fill_(step)

    @torch.no_grad()
    def gather(self, kind: str, name: str) -> Tensor:
        """Return one whole tensor, fp32. Every replica of this stage must call it alike."""
        parameter: Any = self._parameters[name]  # DeepSpeed hangs its own members on it
        key = None if kind == WEIGHTS else kind
        if hasattr(parameter, "ds_id"):
            return parameter._z3_optimizer.get_full_hp_param(parameter, key).view(parameter.ds_shape)
        if hasattr(parameter, "_hp_mapping"):
            return parameter.get_full_hp_param(key)
        return (parameter if key is None else self._optimizer.state[parameter][key]).detach().clone()

    def is_replicated(self, name: str) -> bool:
        """Return whether every replica holds all of a tensor, its optimizer entries too (ZeRO 0)."""
        parameter = self._parameters[name]
        return not hasattr(parameter, "ds_id") and not hasattr(parameter, "_hp_mapping")

    def piece(self, kind: str, name: str) -> tuple[int, Tensor] | None:
        """Return what this rank holds of a flattened tensor: its first element's index, and the values, not a copy."""
        parameter: Any = self._parameters[name]  # DeepSpeed hangs its own members on it
        key = None if kind == WEIGHTS else kind
        if self.is_replicated(name):
            values = parameter if key is None else self._optimizer.state[parameter][key]
            return 0, values.detach().view(-1)
        if hasattr(parameter, "ds_id"):
            optimizer = parameter._z3_optimizer
            padded, _ = optimizer._get_fp32_opt_state_partition(parameter, True, key)
            start = len(padded) * optimizer._get_param_partition_rank(parameter)
            length = min(len(padded), parameter.ds_numel - start)  # the last parts are padded, or all padding
            return (start, padded[:length]) if length > 0 else None
        mapping = parameter._hp_mapping
        return None if mapping is None else (mapping.lp_fragment_address.start, mapping.get_hp_fragment(key))

    @torch.no_grad()
    def scatter(self, kind: str, name: str, read: Callable[[int, int], Tensor]) -> None:
        """Fill what this rank holds of a tensor with `read(start, stop)`, elements of it flattened.

        More than that is read where this rank computes with all of a weight.
        """
        piece = self.piece(kind, name)
        if piece is not None:
            start, values = piece
            values.copy_(read(start, start + len(values)))
        if kind == WEIGHTS and not self.is_replicated(name):
            self._refresh(self._parameters[name], piece, read)

    def shape(self, name: str) -> torch.Size:
        parameter = self._parameters[name]
        return torch.Size(getattr(parameter, "ds_shape", parameter.shape))

    @staticmethod
    def _refresh(parameter: Any, piece: tuple[int, Tensor] | None, read: Callable[[int, int], Tensor]) -> None:
        """Lay the weights over the copy that computes, in the run's precision: ZeRO 3 divides it, 1 and 2 do not."""
        if not hasattr(parameter, "ds_id"):
            parameter.view(-1).copy_(read(0, parameter.numel()))
        elif piece is not None:
            values = piece[1]
            parameter.ds_tensor[: len(values)].copy_(values)

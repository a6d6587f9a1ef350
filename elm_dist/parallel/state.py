"""Reads and writes whole tensors of a run, one by one, whatever ZeRO made of them.

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

    @torch.no_grad()
    def scatter(self, kind: str, name: str, value: Tensor) -> None:
        """Lay one whole tensor over this rank's part of it."""
        parameter: Any = self._parameters[name]  # DeepSpeed hangs its own members on it
        key = None if kind == WEIGHTS else kind
        value = value.to(parameter.device)
        if hasattr(parameter, "ds_id"):
            self._scatter_zero3(parameter, value, key)
            return
        if hasattr(parameter, "_hp_mapping"):
            parameter.set_full_hp_param(value, key)
        elif key is not None:
            self._optimizer.state[parameter][key].copy_(value)
        if key is None:
            parameter.copy_(value)  # the copy that computes, in the run's precision

    def shape(self, name: str) -> torch.Size:
        parameter = self._parameters[name]
        return torch.Size(getattr(parameter, "ds_shape", parameter.shape))

    @staticmethod
    def _scatter_zero3(parameter: Any, value: Tensor, key: str | None) -> None:
        """DeepSpeed's own setter fails where the parameter does not divide evenly: the last part is padded."""
        part = parameter.ds_tensor.ds_numel
        rank = parameter._z3_optimizer._get_param_partition_rank(parameter)
        padded = value.new_zeros(part * (rank + 1))
        padded[: value.numel()] = value.flatten()[: padded.numel()]
        mine = padded[part * rank :]
        parameter._z3_optimizer.set_local_hp_param(mine, parameter, key)
        if key is None:
            parameter.ds_tensor.copy_(mine)

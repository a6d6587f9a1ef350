"""ELM as one ordered list of layers. Pipeline stages and the plain module are both built from this list.

Read next: `embedding.py`, `block.py`, `head.py`, in the order in which an image's codes pass through them.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import ModelConfig
from elm_dist.model.attention import KeyValueCache
from elm_dist.model.block import Block
from elm_dist.model.embedding import Embedding
from elm_dist.model.head import Head
from elm_dist.model.kernels import PLAIN, Kernels
from elm_dist.randomness import derive_seed


@dataclass(frozen=True)
class LayerSpec:
    """A layer that is not built yet; its name begins the canonical names of its parameters."""

    name: str
    module: type[nn.Module]
    kwargs: dict[str, Any]

    def build(self) -> nn.Module:
        return self.module(**self.kwargs)


def code_shape(model: ModelConfig, grid: int) -> CodeShape:
    """Return how an image of grid x grid codes divides into this model's sub-tokens."""
    return CodeShape(grid**2, model.subtokens, model.subtoken_bits)


def layer_specs(
    model: ModelConfig, grid: int, checkpoint_every_blocks: int = 0, kernels: Kernels = PLAIN
) -> list[LayerSpec]:
    """Return the model's layers in order: the embedding, the blocks, the head.

    Every `checkpoint_every_blocks`-th block recomputes its activations in the backward pass (0: none does).
    `kernels` compute them: `choose_kernels` finds the fastest, the default is what works everywhere.
    """
    shape = code_shape(model, grid)
    every = checkpoint_every_blocks
    common = {"model": model, "kernels": kernels}
    return [
        LayerSpec("embedding", Embedding, {"model": model, "code_shape": shape}),
        *(
            LayerSpec(
                f"block_{index}",
                Block,
                common | {"grid": grid, "index": index, "recompute": every > 0 and index % every == 0},
            )
            for index in range(model.num_layers)
        ),
        LayerSpec("head", Head, common | {"code_shape": shape}),
    ]


class ELM(nn.Sequential):
    """The whole model in one process: (packed codes, labels) -> logits (batch, positions, subtokens, vocabulary)."""

    def __init__(self, specs: Sequence[LayerSpec]) -> None:
        super().__init__(OrderedDict((spec.name, spec.build()) for spec in specs))


@torch.no_grad()
def initialize(named_parameters: Iterable[tuple[str, nn.Parameter]], seed: int) -> None:
    """Draw the parameters, named canonically, from N(0, 0.02); norms are one, heads zero (the loss starts at d ln 2).

    A parameter depends on the seed and its name alone, drawn on the CPU: any layout on any device starts alike.
    """
    for name, parameter in named_parameters:
        if parameter.ndim == 1:
            parameter.fill_(1)
        elif name.startswith("head.outputs"):
            parameter.zero_()
        else:
            generator = torch.Generator().manual_seed(derive_seed(seed, "weights", name))
            parameter.copy_(torch.empty(parameter.shape).normal_(0, 0.02, generator=generator))


class DecoderStep(Protocol):
    """Gives the logits (rows, outputs, subtokens, vocabulary) at the last `outputs` positions of `x`.

    `x` is labels (rows,) at position 0, or sub-tokens (rows, length, subtokens) for the positions from `position` on.
    Its rows are those of the batch from `row` on, and the positions of each row come in order; those that come again
    replace what was there. It runs on one process or on many.
    """

    def __call__(self, x: Tensor, position: int, row: int = 0, outputs: int = 1) -> Tensor: ...


class Decoder:
    """Runs consecutive layers of the model over new positions alone, with a cache of keys and values per block.

    The first layer of a whole model takes what `DecoderStep` says; a later pipeline stage takes the stream
    (rows, length, hidden_size) of the stage before.
    """

    def __init__(self, layers: Iterable[nn.Module], batch: int) -> None:
        self.layers = list(layers)
        self.batch = batch
        self.caches: dict[int, KeyValueCache] = {}

    @torch.inference_mode()
    def step(self, x: Tensor, position: int, row: int = 0, outputs: int = 1) -> Tensor:
        """Return the logits at the last `outputs` positions, or the stream at all of them where the head is elsewhere.

        Many positions at once (a prefill) cost one pass and leave the cache as so many steps would.
        """
        for index, layer in enumerate(self.layers):
            if isinstance(layer, Embedding):
                x = layer.embed_classes(x) if position == 0 else layer.embed_codes(x)
            elif isinstance(layer, Block):
                x = layer.step(x, position, self._cache(index, layer, x).rows(row, len(x)))
            else:
                x = layer(x[:, -outputs:])
        return x

    def _cache(self, index: int, block: Block, x: Tensor) -> KeyValueCache:
        if index not in self.caches:
            heads, grid = block.attention.heads, block.attention.grid
            self.caches[index] = KeyValueCache.empty(self.batch, heads, grid**2, x.shape[2] // heads, like=x)
        return self.caches[index]

"""ELM as one ordered list of layers. Pipeline stages and the plain module are both built from this list.

Read next: `embedding.py`, `block.py`, `head.py`, in the order in which an image's codes pass through them.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import Grid, ModelConfig
from elm_dist.model.attention import KeyValueCache
from elm_dist.model.block import Block
from elm_dist.model.embedding import Embedding, MaskedEmbedding
from elm_dist.model.head import CodeHead, Head, MaskedHead, SequentialHead
from elm_dist.model.kernels import PLAIN, Kernels
from elm_dist.model.rotary import sequence_length
from elm_dist.randomness import derive_seed

ENDS = {  # first and last layer
    ("autoregressive", "parallel"): (Embedding, Head),
    ("autoregressive", "sequential"): (Embedding, SequentialHead),
    ("masked", "parallel"): (MaskedEmbedding, MaskedHead),
}
# Vectors, which do not decay; all others are matrices.
VECTOR = re.compile(r"norm\.(weight|bias)|\.bias|\.biases\.\d+|\.scale")


@dataclass(frozen=True)
class LayerSpec:
    """A layer that is not built yet; its name begins the canonical names of its parameters."""

    name: str
    module: type[nn.Module]
    kwargs: dict[str, Any]

    def build(self) -> nn.Module:
        return self.module(**self.kwargs)


def code_shape(model: ModelConfig, grid: Grid) -> CodeShape:
    """Return how an image's codes divide into this model's sub-tokens."""
    return CodeShape(grid.cells, model.subtokens, model.subtoken_bits)


def stream_length(model: ModelConfig, grid: Grid) -> int:
    """Return the length of the stream between two layers: the sequence, and the class of an adaptive model."""
    return sequence_length(model, grid) + (model.conditioning == "adaln")


def layer_specs(
    model: ModelConfig, grid: Grid, checkpoint_every_blocks: int = 0, kernels: Kernels = PLAIN
) -> list[LayerSpec]:
    """Return the model's layers in order: the embedding, the blocks, the head.

    Every `checkpoint_every_blocks`-th block recomputes its activations in the backward pass (0: none does).
    `kernels` compute them: `choose_kernels` finds the fastest, the default is what works everywhere.
    """
    shape = code_shape(model, grid)
    every = checkpoint_every_blocks
    common = {"model": model, "kernels": kernels}
    embedding, head = ENDS[model.modelling, model.subtoken_prediction]
    length = sequence_length(model, grid)
    return [
        LayerSpec("embedding", embedding, {"model": model, "code_shape": shape, "length": length}),
        *(
            LayerSpec(
                f"block_{index}",
                Block,
                common | {"grid": grid, "index": index, "recompute": every > 0 and index % every == 0},
            )
            for index in range(model.num_layers)
        ),
        LayerSpec("head", head, common | {"code_shape": shape}),
    ]


class ELM(nn.Sequential):
    """The whole model in one process: (packed codes, labels) -> logits (batch, positions, subtokens, vocabulary)."""

    def __init__(self, specs: Sequence[LayerSpec]) -> None:
        super().__init__(OrderedDict((spec.name, spec.build()) for spec in specs))
        share_tables(self)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        head = self[-1]
        assert isinstance(head, CodeHead)
        return head.logits_of(super().forward(batch), batch[0])


def share_tables(layers: Iterable[nn.Module]) -> None:
    """Show a masked head the embedding's tables, where both are among `layers`. What it sees is always the newest."""
    layers = list(layers)
    for head in (layer for layer in layers if isinstance(layer, MaskedHead)):
        for embedding in (layer for layer in layers if isinstance(layer, MaskedEmbedding)):
            head.tables = embedding.tables


@torch.no_grad()
def initialize(named_parameters: Iterable[tuple[str, nn.Parameter]], seed: int) -> None:
    """Draw the parameters, named canonically, from N(0, 0.02); norms are one, heads zero (the loss starts at d ln 2).

    Biases and what the class modulates are zero, too. A parameter depends on the seed and its name alone, drawn on the
    CPU: any layout on any device starts alike.
    """
    for name, parameter in named_parameters:
        if is_vector(name):
            parameter.fill_(0 if "bias" in name else 1)
        elif name.startswith("head.outputs") or "adaln" in name:
            parameter.zero_()
        else:
            generator = torch.Generator().manual_seed(derive_seed(seed, "weights", name))
            parameter.copy_(torch.empty(parameter.shape).normal_(0, 0.02, generator=generator))


def is_vector(name: str) -> bool:
    """Return whether the parameter of this name is a vector: with ZeRO 3 a parameter does not show its shape."""
    return VECTOR.search(name) is not None


@dataclass(frozen=True)
class Drawn:
    """The sub-tokens (rows, outputs, number) that are drawn so far where the call before gave logits."""

    subtokens: Tensor


class DecoderStep(Protocol):
    """Gives the logits (rows, outputs, n, vocabulary) at the last `outputs` positions of `x`.

    They are those of all sub-tokens or, where these are predicted one after the other, of the first alone. Each of the
    others takes a call with `Drawn` for `x`, and the same position, row and outputs.

    `x` is labels (rows,) at position 0, or sub-tokens (rows, length, subtokens) for the positions from `position` on.
    Its rows are those of the batch from `row` on, and the positions of each row come in order; those that come again
    replace what was there. It runs on one process or on many.

    A masked model sees an image at once: `x` is its sub-tokens (rows, positions, subtokens), of a hidden code
    `vocabulary`, and the labels; `position` is 0, and `outputs` are all positions.
    """

    def __call__(self, x: Any, position: int, row: int = 0, outputs: int = 1) -> Tensor: ...


class Decoder:
    """Runs consecutive layers of the model over new positions alone, with a cache of keys and values per block.

    The first layer of a whole model takes what `DecoderStep` says; a later pipeline stage takes the stream
    (rows, length, hidden_size) of the stage before.
    """

    def __init__(self, layers: Iterable[nn.Module], batch: int) -> None:
        self.layers = list(layers)
        self.batch = batch
        self.caches: dict[int, KeyValueCache] = {}
        self.told: Tensor  # what the head told last
        self.is_adaptive = any(isinstance(layer, Block) and layer.adaln for layer in self.layers)

    def length(self, x: Any, position: int) -> int:
        """Return the length of the stream that a step for `x` passes between layers."""
        return x.shape[1] if position else 1 + self.is_adaptive

    @torch.inference_mode()
    def step(self, x: Any, position: int, row: int = 0, outputs: int = 1) -> Tensor:
        """Return the logits at the last `outputs` positions, or the stream at all of them where the head is elsewhere.

        Many positions at once (a prefill) cost one pass and leave the cache as so many steps would. What is `Drawn` is
        for the head alone.
        """
        if isinstance(x, Drawn):
            return self._head.next_logits(self.told, x.subtokens.unbind(dim=2))
        for index, layer in enumerate(self.layers):
            if isinstance(layer, Embedding):
                x = layer.start(x) if position == 0 else layer.go_on(x, position)
            elif isinstance(layer, Block):
                x = layer.step(x, position, self._cache(index, layer, x).rows(row, len(x)))
            else:
                self.told = layer(x[:, -outputs:])
                x = self._head.next_logits(self.told)
        return x

    @property
    def _head(self) -> CodeHead:
        head = self.layers[-1]
        assert isinstance(head, CodeHead)
        return head

    def _cache(self, index: int, block: Block, x: Tensor) -> KeyValueCache:
        if index not in self.caches:
            attention = block.attention
            size = (self.batch, attention.key_value_heads, attention.grid.cells, attention.model.head_size)
            self.caches[index] = KeyValueCache.empty(*size, like=x, label_size=x.shape[2] if self.is_adaptive else 0)
        return self.caches[index]


class WholePass:
    """Runs consecutive layers of a masked model over whole images: whatever is uncovered changes everything."""

    def __init__(self, layers: Iterable[nn.Module], batch: int) -> None:
        self.layers = list(layers)
        attention = next(layer.attention for layer in self.layers if isinstance(layer, Block))
        self._length = stream_length(attention.model, attention.grid)

    def length(self, x: Any, position: int) -> int:
        """Return the length of the stream that a step for `x` passes between layers."""
        return self._length

    @torch.inference_mode()
    def step(self, x: Any, position: int, row: int = 0, outputs: int = 1) -> Tensor:
        """Return the logits at all positions, or the stream where the head is elsewhere."""
        for layer in self.layers:
            x = layer.embed(*x) if isinstance(layer, Embedding) else layer(x)
        return x


DECODERS: dict[str, type[Decoder | WholePass]] = {"autoregressive": Decoder, "masked": WholePass}

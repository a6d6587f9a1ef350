"""The layouts of published tokenizers: what their authors called each tensor, and the sizes that their shapes tell.

Our names follow the order of the layers, so a layout lists the published layers in that order. Knows nothing of files.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any, Protocol

from torch import Tensor

from elm_dist.config import TokenizerConfig

Tensors = dict[str, Tensor]


class Layout(Protocol):
    @property
    def name(self) -> str: ...

    def is_of(self, tensors: Tensors) -> bool:
        """Return whether `tensors` look like this layout."""

    def sizes(self, tensors: Tensors, image_size: int) -> dict[str, Any]:
        """Return what the shapes tell of a `TokenizerConfig`; raises KeyError with the name of a missing tensor."""

    def publisher(self, config: TokenizerConfig) -> Callable[[str], str]:
        """Return what turns the name of a tensor of ours into the published one."""

    def is_unused(self, name: str) -> bool:
        """Return whether a published tensor that we have no place for is known to take no part."""


class BAELayout:
    """ELM's and Binary Latent Diffusion's: one list of blocks for each net, as we have them."""

    name = "ELM's BAE"

    def is_of(self, tensors: Tensors) -> bool:
        return "ae.quantize.proj.0.weight" in tensors

    def sizes(self, tensors: Tensors, image_size: int) -> dict[str, Any]:
        kinds = "".join(self._kinds(tensors, "ae.encoder.blocks"))  # such as C RR D RARA RAR NC
        base_channels, folded = tensors["ae.encoder.blocks.0.weight"].shape[:2]
        levels = kinds[1:-5].split("D")  # without the first convolution, the middle, and the last norm and convolution
        first_blocks = [1 + sum(len(level) + 1 for level in levels[:index]) for index in range(len(levels))]
        widths = [len(tensors[f"ae.encoder.blocks.{block}.conv1.weight"]) for block in first_blocks]
        patch_size = math.isqrt(folded // 3) or 1
        return {
            "kind": "bae",
            "code_bits": len(tensors["ae.quantize.proj.0.weight"]),
            "patch_size": patch_size,
            "base_channels": base_channels,
            "channel_multipliers": tuple(width // base_channels for width in widths),
            "res_blocks": levels[0].count("R"),
            "attention_resolutions": _attended(["A" in level for level in levels], image_size // patch_size),
            "embedding_channels": tensors["ae.quantize.embed.weight"].shape[1],
        }

    def publisher(self, config: TokenizerConfig) -> Callable[[str], str]:
        def publish(name: str) -> str:
            net, rest = name.split(".", maxsplit=1)
            nets = {"encoder": "encoder.blocks", "decoder": "generator.blocks"}
            nets |= {"project": "quantize.proj.0", "embed": "quantize.embed"}
            return f"ae.{nets[net]}.{rest.replace('skip', 'conv_out')}"

        return publish

    def is_unused(self, name: str) -> bool:
        """The losses' networks, the skips of blocks that need none, and a variance that nothing reads."""
        return not name.startswith("ae.") or ".conv_out." in name or name.startswith("ae.generator.logsigma.")

    def _kinds(self, tensors: Tensors, prefix: str) -> Iterator[str]:
        """Yield the kind of each block: Residual, Attention, Downsampling, Norm or Convolution."""
        signs = {"conv1.weight": "R", "q.weight": "A", "conv.weight": "D"}
        for index in count():
            found = [kind for sign, kind in signs.items() if f"{prefix}.{index}.{sign}" in tensors]
            weight = tensors.get(f"{prefix}.{index}.weight")
            if weight is not None:
                found = ["N" if weight.dim() == 1 else "C"]
            if not found:
                return
            yield found[0]


@dataclass(frozen=True)
class VQGANLayout:
    """The family of taming-transformers, whose members differ in some names alone."""

    name: str
    down: str  # the levels of the encoder
    up: str  # the levels of the decoder
    up_from_deepest: bool  # whether these are numbered from the deepest on, or from the full resolution
    block: str
    middle: tuple[str, str, str]
    normalized: bool  # the codebook

    def is_of(self, tensors: Tensors) -> bool:
        return f"encoder.{self.down}.0.{self.block}.0.conv1.weight" in tensors

    def sizes(self, tensors: Tensors, image_size: int) -> dict[str, Any]:
        base_channels, folded = tensors["encoder.conv_in.weight"].shape[:2]
        prefix = f"encoder.{self.down}"
        firsts = (tensors.get(f"{prefix}.{level}.{self.block}.0.conv1.weight") for level in count())
        widths = [len(weight) for weight in takewhile(lambda weight: weight is not None, firsts) if weight is not None]
        blocks = takewhile(lambda index: f"{prefix}.0.{self.block}.{index}.conv1.weight" in tensors, count())
        attends = [f"{prefix}.{level}.attn.0.q.weight" in tensors for level in range(len(widths))]
        entries, codebook_dim = tensors["quantize.embedding.weight"].shape
        patch_size = math.isqrt(folded // 3) or 1
        return {
            "kind": "vqgan",
            "code_bits": (entries - 1).bit_length(),
            "codebook_size": entries,
            "codebook_dim": codebook_dim,
            "codebook_normalized": self.normalized,
            "patch_size": patch_size,
            "base_channels": base_channels,
            "channel_multipliers": tuple(width // base_channels for width in widths),
            "res_blocks": len(list(blocks)),
            "attention_resolutions": _attended(attends, image_size // patch_size),
            "embedding_channels": len(tensors["encoder.conv_out.weight"]),
        }

    def publisher(self, config: TokenizerConfig) -> Callable[[str], str]:
        encoder, decoder = self._encoder_layers(config), self._decoder_layers(config)
        others = {"project": "quant_conv", "expand": "post_quant_conv", "codebook": "quantize.embedding"}

        def publish(name: str) -> str:
            net, rest = name.split(".", maxsplit=1)
            if net in others:
                return f"{others[net]}.{rest}"
            index, rest = rest.split(".", maxsplit=1)
            layers = encoder if net == "encoder" else decoder
            return f"{net}.{layers[int(index)]}.{rest.replace('skip', 'nin_shortcut')}"

        return publish

    def is_unused(self, name: str) -> bool:
        """The losses' networks, and a record of which entries were used."""
        return name.startswith("loss.") or name.endswith("codebook_used")

    def _encoder_layers(self, config: TokenizerConfig) -> list[str]:
        """Return what each layer of our encoder is called, in order; an activation has no name."""
        levels = range(len(config.channel_multipliers))
        names = ["conv_in"]
        for level in levels:
            names += self._level(f"{self.down}.{level}", level, config.res_blocks, config)
            names += [f"{self.down}.{level}.downsample"] if level < levels[-1] else []
        return [*names, *self.middle, "norm_out", "", "conv_out"]

    def _decoder_layers(self, config: TokenizerConfig) -> list[str]:
        levels = range(len(config.channel_multipliers))
        names = ["conv_in", *self.middle]
        for level in reversed(levels):
            prefix = f"{self.up}.{levels[-1] - level if self.up_from_deepest else level}"
            names += self._level(prefix, level, config.res_blocks + 1, config)
            names += [f"{prefix}.upsample"] if level > 0 else []
        return [*names, "norm_out", "", "conv_out"]

    def _level(self, prefix: str, level: int, blocks: int, config: TokenizerConfig) -> list[str]:
        attends = min(config.feature_maps[level]) in config.attention_resolutions
        kinds = (self.block, "attn") if attends else (self.block,)
        return [f"{prefix}.{kind}.{index}" for index in range(blocks) for kind in kinds]


def _attended(attends: list[bool], finest: int) -> tuple[int, ...]:
    """Return the sizes of the feature maps of the levels that attend, the finest level having `finest`."""
    return tuple(finest // 2**level for level, does in enumerate(attends) if does)


LAYOUTS: tuple[Layout, ...] = (
    BAELayout(),
    VQGANLayout(
        "LlamaGen's VQ-16",
        down="conv_blocks",
        up="conv_blocks",
        up_from_deepest=True,
        block="res",
        middle=("mid.0", "mid.1", "mid.2"),
        normalized=True,
    ),
    VQGANLayout(
        "taming's VQGAN f16",
        down="down",
        up="up",
        up_from_deepest=False,
        block="block",
        middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
        normalized=False,
    ),
)

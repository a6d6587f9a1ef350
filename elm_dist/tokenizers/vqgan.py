"""The VQGAN: an image becomes a grid of entries of a learned codebook, and such a grid an image.

The encoder gives one vector per position, which the nearest entry of the codebook replaces. The number of the entry is
the position's code: code_bits bits, the most significant first, as of any tokenizer here. Knows nothing of losses,
files and processes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.codes.packing import bits_to_subtokens, pack_bits, subtokens_to_bits, unpack_subtokens
from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import TokenizerConfig
from elm_dist.tokenizers.draws import Draws
from elm_dist.tokenizers.networks import build_decoder, build_encoder

SEARCHED_TOGETHER = 4096  # positions: 256 MB of distances to 16,384 entries


class Quantized(NamedTuple):
    """What the codebook made of an image; (batch, codebook_dim, rows, columns), fp32, but for the ids."""

    vectors: Tensor  # what the encoder gave, with its gradient
    entries: Tensor  # the nearest entries, with the gradient of the codebook
    ids: Tensor  # (batch, rows, columns), int64


class VQGAN(nn.Module):
    """The autoencoder of `config`, H x W = image_size, K = codebook_size, on a grid of rows x columns positions.

    Images are float (batch, 3, H, W) in [0, 1]; the nets see [-1, 1], as the published ones do.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.code_shape = CodeShape(config.positions, subtokens=1, subtoken_bits=config.code_bits)
        self.encoder = build_encoder(config)
        self.project = nn.Conv2d(config.embedding_channels, config.codebook_dim, 1)
        self.codebook = nn.Embedding(config.codebook_size, config.codebook_dim)
        nn.init.uniform_(self.codebook.weight, -1 / config.codebook_size, 1 / config.codebook_size)
        self.expand = nn.Conv2d(config.codebook_dim, config.embedding_channels, 1)
        self.decoder = build_decoder(config)

    def encode(self, images: Tensor) -> Tensor:
        """Return the vectors to look up, (batch, codebook_dim, rows, columns), fp32."""
        folded = F.pixel_unshuffle(images * 2 - 1, self.config.patch_size)
        return self._normalized(self.project(self.encoder(folded)).float())

    def quantize(self, vectors: Tensor) -> Quantized:
        """Replace each vector (batch, codebook_dim, rows, columns) by the nearest entry."""
        codebook = self.entries()
        rows = vectors.detach().permute(0, 2, 3, 1).flatten(0, 2)
        with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):  # bf16 would mistake near entries
            half_squares = codebook.square().sum(dim=1) / 2
            # |v - e|^2 = |v|^2 - 2 (v.e - |e|^2 / 2), so the nearest entry is where the bracket is largest.
            nearest = [(part @ codebook.T - half_squares).argmax(dim=1) for part in rows.split(SEARCHED_TOGETHER)]
        ids = torch.cat(nearest).view(len(vectors), *vectors.shape[2:])
        return Quantized(vectors, F.embedding(ids, codebook).permute(0, 3, 1, 2), ids)

    def decode(self, entries: Tensor) -> Tensor:
        """Return the images, not clamped, of entries (batch, codebook_dim, rows, columns)."""
        pixels = F.pixel_shuffle(self.decoder(self.expand(entries)), self.config.patch_size)
        return (pixels + 1) / 2

    def forward(self, images: Tensor, draws: Draws | None = None) -> tuple[Tensor, Quantized]:
        """Return the reconstruction, not clamped, and what it came from; nothing is drawn.

        The gradient of the reconstruction passes straight through to the encoder, past the codebook.
        """
        quantized = self.quantize(self.encode(images))
        vectors = quantized.vectors
        straight = quantized.entries.detach() + (vectors - vectors.detach())  # the bracket is exactly zero
        return self.decode(straight), quantized

    def entries(self) -> Tensor:
        """Return the codebook (K, codebook_dim) as it is looked up in: normalized where `config` says so."""
        return self._normalized(self.codebook.weight)

    @torch.no_grad()
    def image_codes(self, images: Tensor) -> Tensor:
        """Return the codes of images as packed bytes (batch, packed_bytes), uint8; the same for the same image."""
        ids = self.quantize(self.encode(images)).ids.flatten(1)  # in raster order
        return pack_bits(subtokens_to_bits(ids, self.config.code_bits))

    @torch.no_grad()
    def images_from_codes(self, codes: Tensor) -> Tensor:
        """Return images in [0, 1] of packed bytes (batch, packed_bytes) or of bits (batch, positions, code_bits).

        Where K is no power of two a sampler may write numbers that no entry has: they stand for the last entry.
        """
        if codes.dim() == 2:
            ids = unpack_subtokens(codes, self.code_shape).squeeze(2)
        else:
            ids = bits_to_subtokens(codes, self.config.code_bits).squeeze(2)
        grid = ids.clamp(max=self.config.codebook_size - 1).unflatten(1, self.config.grid)
        return self.decode(F.embedding(grid, self.entries()).permute(0, 3, 1, 2)).clamp(0, 1)

    def _normalized(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=1) if self.config.codebook_normalized else vectors

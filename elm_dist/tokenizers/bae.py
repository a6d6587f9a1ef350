"""The binary autoencoder (BAE): an image becomes a grid of binary codes, and a grid of codes an image.

The encoder gives one probability per code bit; a bit is a Bernoulli draw of it while training, and whether it exceeds
0.5 otherwise. A code is decoded as the sum of one learned vector per bit that is set, so there is no codebook to search
and no entry of it that can go unused. Knows nothing of losses, files and processes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elm_dist.codes.packing import pack_bits, unpack_bits
from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import TokenizerConfig
from elm_dist.tokenizers.draws import Draws
from elm_dist.tokenizers.networks import build_decoder, build_encoder


class BAE(nn.Module):
    """The autoencoder of `config`, H x W = image_size, D = code_bits, on a grid of rows x columns positions.

    Images are float (batch, 3, H, W) in [0, 1].
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.code_shape = CodeShape(config.positions, subtokens=1, subtoken_bits=config.code_bits)
        self.encoder = build_encoder(config)
        self.project = nn.Conv2d(config.embedding_channels, config.code_bits, 1)
        self.embed = nn.Embedding(config.code_bits, config.embedding_channels)  # what each bit, when set, adds
        self.decoder = build_decoder(config)

    def encode(self, images: Tensor) -> Tensor:
        """Return the probability of each code bit, (batch, D, rows, columns) in (0, 1)."""
        folded = F.pixel_unshuffle(images, self.config.patch_size)
        return torch.sigmoid(self.project(self.encoder(folded)))

    def quantize(self, probabilities: Tensor, draws: Draws | None = None) -> Tensor:
        """Return bits, 0.0 or 1.0, of the shape of `probabilities`, whose gradient passes straight through.

        `draws` feed the Bernoulli draws, which happen only in training mode.
        """
        if self.training and self.config.quantization == "bernoulli":
            assert draws is not None, "bits are drawn in training"
            threshold = draws.uniform(*probabilities.shape[1:])
        else:
            threshold = torch.tensor(0.5, device=probabilities.device)
        bits = (probabilities > threshold).to(probabilities.dtype)
        return bits + (probabilities - probabilities.detach())  # the bracket is exactly zero: bits stay exact

    def decode(self, bits: Tensor) -> Tensor:
        """Return the images, not clamped, of float bits (batch, D, rows, columns)."""
        features = torch.einsum("bdhw,dc->bchw", bits, self.embed.weight)
        return F.pixel_shuffle(self.decoder(features), self.config.patch_size)

    def forward(self, images: Tensor, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        """Return the reconstruction, not clamped, and the probabilities that its bits came from."""
        probabilities = self.encode(images)
        return self.decode(self.quantize(probabilities, draws)), probabilities

    @torch.no_grad()
    def image_codes(self, images: Tensor) -> Tensor:
        """Return the codes of images as packed bytes (batch, packed_bytes), uint8; the same for the same image."""
        bits = self.encode(images) > 0.5
        return pack_bits(bits.flatten(2).transpose(1, 2).flatten(1))  # (batch, D, ...) -> (batch, positions x D)

    @torch.no_grad()
    def images_from_codes(self, codes: Tensor) -> Tensor:
        """Return images in [0, 1] of packed bytes (batch, packed_bytes) or of bits (batch, positions, D)."""
        bits = unpack_bits(codes, self.code_shape) if codes.dim() == 2 else codes
        grid = bits.transpose(1, 2).unflatten(2, self.config.grid)
        return self.decode(grid.to(self.embed.weight.dtype)).clamp(0, 1)

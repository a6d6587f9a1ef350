"""The one definition of the order of code bits, and the shape of an image's code.

An image is `positions` codes in raster order (rows first). A code has `subtokens` x `subtoken_bits` bits. Bit 0 is the
tokenizer's channel 0 and the most significant bit of sub-token 0; sub-token s owns bits [s*d, (s+1)*d). Example with
2 sub-tokens of 4 bits: 10110010 -> (11, 2). Packed, an image is these bits in one big-endian stream, as `np.packbits`
writes it, padded with zeros to whole bytes.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class CodeShape:
    """How an image's code divides: `positions` codes of `subtokens` sub-tokens of `subtoken_bits` bits."""

    positions: int
    subtokens: int
    subtoken_bits: int

    @property
    def code_bits(self) -> int:
        return self.subtokens * self.subtoken_bits

    @property
    def image_bits(self) -> int:
        return self.positions * self.code_bits

    @property
    def packed_bytes(self) -> int:
        return -(-self.image_bits // 8)

    @property
    def vocabulary(self) -> int:
        return 2**self.subtoken_bits

"""A user's picture as codes: cropped as training images are, encoded by the run's tokenizer; and which cells to redraw.

Knows nothing of the model.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from elm_dist.codes.packing import unpack_subtokens
from elm_dist.config import TokenizerConfig
from elm_dist.data.images import centre_crop, read_image
from elm_dist.errors import ImageError
from elm_dist.sampling.painter import Painter


def encode_picture(painter: Painter, picture: Image.Image) -> Tensor:
    """Return the sub-tokens (1, rows, columns, subtokens) of the centre of an RGB picture of any size."""
    tokenizer = painter.config.tokenizer
    pixels = torch.from_numpy(np.array(centre_crop(picture, tokenizer.image_size))).to(painter.device)
    codes = painter.tokenizer.image_codes(pixels.permute(2, 0, 1).unsqueeze(0).contiguous().float() / 255)
    return unpack_subtokens(codes, painter.shape).unflatten(1, tokenizer.grid)


def region_mask(size: tuple[int, int], region: Sequence[int]) -> Image.Image:
    """Return a mask, white in `region` (left, top, right, bottom), for a picture of `size` (width, height).

    Raises ImageError for a region that is empty or does not lie within the picture.
    """
    left, top, right, bottom = region
    width, height = size
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ImageError(
            f"--region: {','.join(map(str, region))} is no region of the picture, which is {width} pixels wide and "
            f"{height} high; give left,top,right,bottom with left < right <= {width} and top < bottom <= {height}"
        )
    mask = Image.new("L", size, 0)
    mask.paste(255, (left, top, right, bottom))
    return mask


def read_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """Return the mask in a file, for a picture of `size` (width, height).

    Raises ImageError if it cannot be read or is of another size.
    """
    mask = read_image(str(path), path).convert("L")
    if mask.size != size:
        raise ImageError(
            f"--mask: {path} is {mask.width}x{mask.height} pixels and the picture {size[0]}x{size[1]}; make them "
            "of one size"
        )
    return mask


def masked_cells(tokenizer: TokenizerConfig, mask: Image.Image) -> NDArray[np.bool_]:
    """Return which cells (rows, columns) of a picture have a white pixel, after the mask was cropped as the picture is.

    Raises ImageError if none has.
    """
    pixels = np.asarray(centre_crop(mask, tokenizer.image_size)) > 127
    blocks = pixels.reshape(tokenizer.grid.rows, tokenizer.downsampling, tokenizer.grid.columns, tokenizer.downsampling)
    cells: NDArray[np.bool_] = blocks.max(axis=(1, 3))
    if not cells.any():
        raise ImageError(
            "there is nothing to draw: the mask or the region leaves no white in the centre of the picture, which is "
            "all that is edited; white is what is drawn anew"
        )
    return cells

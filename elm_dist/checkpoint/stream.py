"""Writes safetensors files as a stream: values go to disk and into the checksum as they come, and none are kept.

The library's own writer wants all values of a file at once, and the checksum would take a second reading of the file.
The format is 8 bytes, the length of a JSON header; the header; the values of all tensors, one after the other.
"""

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # that we write
CHUNK = 2**24  # bytes that are written and hashed at once
CHUNKS_BEHIND = 8  # that the hash may lag, so that it has work while the disk syncs
_CODES = {torch.float32: "F32", torch.bfloat16: "BF16"}


class WrittenFile(NamedTuple):
    bytes: int
    sha256: str


def write_safetensors(
    path: Path, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, values: Iterable[Tensor]
) -> WrittenFile:
    """Write tensors of `shapes`, and return when they are on disk.

    `values` are those of all tensors in order, on the CPU, in any number of parts.
    """
    digest, behind = hashlib.sha256(), deque[Future[None]]()
    with path.open("wb") as file, ThreadPoolExecutor(1) as hasher:
        for chunk in _chunks(shapes, dtype, values):
            behind.append(hasher.submit(digest.update, chunk))  # both release the interpreter
            file.write(chunk)
            if len(behind) > CHUNKS_BEHIND:
                behind.popleft().result()
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    return WrittenFile(size, digest.hexdigest())


def _header(shapes: Mapping[str, Sequence[int]], dtype: torch.dtype) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values lie aligned
    return len(text).to_bytes(8, "little") + text


def _chunks(
    shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, values: Iterable[Tensor]
) -> Iterator[bytes | memoryview]:
    yield _header(shapes, dtype)
    for part in values:
        data = part.to(dtype).contiguous().view(-1).view(torch.uint8).numpy().data
        yield from (data[begin : begin + CHUNK] for begin in range(0, len(data), CHUNK))

"""How fast the compiled bit packing is on one CPU thread, against torch, numpy and the copying of the same bytes.

    python benchmarks/bitpack.py [--images 1024] [--rounds 30]

The floor of an operation is `clone()` of a tensor of (bytes in + bytes out) / 2, which reads and writes as many bytes
in all. "torch" and "numpy" are the best of several ways without the extension; all are checked to give the same. Each
number is the best of many short runs, taken in turn, so that a busy machine disturbs all of them alike. An operation
called from Python takes 3 to 5 us however little there is to do, a clone 1 us: with few images this is what shows.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from elm_dist.codes import fallback
from elm_dist.codes.packing import embed_packed, implementation, pack_bits, subtokens_to_bits, unpack_subtokens
from elm_dist.codes.subtokens import CodeShape

SHAPES = [(1, 16), (2, 8), (2, 10), (2, 12), (3, 8), (2, 16), (4, 8)]  # 16, 20, 24 and 32 bits a position
POSITIONS = 256  # of an image
Way = Callable[[], Tensor]
Ways = dict[str, list[Way]]  # by what they use: "op", "floor", "torch", "numpy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024, help=f"of {POSITIONS} positions each; default %(default)s")
    parser.add_argument("--rounds", type=int, default=30, help="how often each way is tried; default %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{implementation()}, one thread, {arguments.images} images of {POSITIONS} positions; microseconds")
    print_packing(arguments.images, arguments.rounds)
    print_embedding(max(1, arguments.images // 64), arguments.rounds)


def print_packing(images: int, rounds: int) -> None:
    for title, ways_of in (
        ("pack_bits, from uint8", pack_ways),
        ("pack_bits, from float32", pack_float_ways),
        ("unpack_subtokens, to int64", unpack_ways),
        ("unpack_subtokens, to int32", unpack_narrow_ways),
        ("subtokens_to_bits, from int64", spread_ways),
    ):
        print(f"\n{title}\n\n| shape | op | floor | share of floor | torch | numpy |\n|---|--:|--:|--:|--:|--:|")
        for subtokens, subtoken_bits in SHAPES:
            best = measure(ways_of(CodeShape(POSITIONS, subtokens, subtoken_bits), images), rounds)
            others = " | ".join(f"{best[name]:,.0f} ({best[name] / best['op']:.1f}x)" for name in ("torch", "numpy"))
            share = f"{best['floor'] / best['op']:.0%}"
            print(f"| {subtokens}-{subtoken_bits} | {best['op']:.1f} | {best['floor']:.1f} | {share} | {others} |")


def print_embedding(images: int, rounds: int) -> None:
    print(f"\nembed_packed, the sum, {images} images\n")
    print("| shape, channels, dtype | op | embedding_bag | embeddings, then their sum |\n|---|--:|--:|--:|")
    for subtokens, subtoken_bits, channels in ((2, 8, 1024), (2, 10, 1024), (2, 12, 1024), (4, 8, 256)):
        for dtype in (torch.float32, torch.bfloat16):
            best = measure(embed_ways(CodeShape(POSITIONS, subtokens, subtoken_bits), images, channels, dtype), rounds)
            others = " | ".join(f"{best[name]:,.0f} ({best[name] / best['op']:.2f}x)" for name in ("bag", "torch"))
            print(f"| {subtokens}-{subtoken_bits}, {channels}, {str(dtype)[6:]} | {best['op']:,.0f} | {others} |")


def measure(ways: Ways, rounds: int) -> dict[str, float]:
    """Return the microseconds of the best way of each name."""
    expected = ways["op"][0]()
    trials: list[tuple[str, Way, int]] = []
    for name, candidates in ways.items():
        for way in candidates:
            assert name == "floor" or torch.equal(way(), expected), f"{name} gives something else"
            trials.append((name, way, max(1, int(2e-3 / seconds(way, 1)))))  # runs of about 2 ms
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way, count in trials:
            best[name] = min(best[name], 1e6 * seconds(way, count))
    return best


def seconds(way: Way, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        way()
    return (time.perf_counter() - start) / count


def copy_of(*tensors: Tensor) -> Way:
    """Return the copy that reads and writes as many bytes as an operation between these tensors."""
    memory = torch.ones(sum(tensor.numel() * tensor.itemsize for tensor in tensors) // 2, dtype=torch.uint8)
    return memory.clone


def random_packed(shape: CodeShape, images: int) -> Tensor:
    return torch.randint(0, 256, (images, shape.packed_bytes), dtype=torch.uint8)


# --- Ways to pack -----------------------------------------------------------------------------------------------------


def pack_ways(shape: CodeShape, images: int, dtype: torch.dtype = torch.uint8) -> Ways:
    packed = random_packed(shape, images)
    bits = subtokens_to_bits(packed, 8).to(dtype)
    array = bits.numpy()
    weights = 2.0 ** torch.arange(7, -1, -1)
    return {
        "op": [lambda: pack_bits(bits)],
        "floor": [copy_of(bits, packed)],
        "torch": [
            lambda: fallback.pack_bits(bits, None, 0),
            lambda: ((bits > 0).view(-1, 8).float() @ weights).to(torch.uint8).view(images, -1),
        ],
        "numpy": [lambda: torch.from_numpy(np.packbits(array > 0, axis=1))]
        + ([lambda: torch.from_numpy(np.packbits(array, axis=1))] if dtype == torch.uint8 else []),
    }


def pack_float_ways(shape: CodeShape, images: int) -> Ways:
    return pack_ways(shape, images, torch.float32)


# --- Ways to unpack ---------------------------------------------------------------------------------------------------


def unpack_ways(shape: CodeShape, images: int, dtype: torch.dtype = torch.int64) -> Ways:
    packed = random_packed(shape, images)
    array, number = packed.numpy(), np.dtype(str(dtype)[6:])
    width, size = shape.subtoken_bits, (images, shape.positions, shape.subtokens)

    def numpy_by_weights() -> Tensor:
        bits = np.unpackbits(array, axis=1).reshape(*size, width)
        return torch.from_numpy((bits @ (1 << np.arange(width - 1, -1, -1)).astype(np.float32)).astype(number))

    def numpy_by_bytes() -> Tensor:
        """Widen each field to 16 bits as bits, pack them, and read the bytes as numbers."""
        bits = np.zeros((images * shape.positions * shape.subtokens, 16), np.uint8)
        bits[:, 16 - width :] = np.unpackbits(array).reshape(-1, width)
        return torch.from_numpy(np.packbits(bits).view(">u2").astype(number).reshape(size))

    def torch_by_windows() -> Tensor:
        """Gather the 24 bits around each of the 8 fields that are `width` bytes, and shift."""
        starts = torch.arange(8) * width
        columns = F.pad(packed.view(-1, width), (0, 2)).to(torch.int32)
        windows = columns[:, starts // 8] << 16 | columns[:, starts // 8 + 1] << 8 | columns[:, starts // 8 + 2]
        return ((windows >> (24 - width - starts % 8).int()) & (1 << width) - 1).to(dtype).view(size)

    def torch_by_view() -> Tensor:
        if width == 8:
            return packed.view(size).to(dtype)
        pairs = packed.view(*size, 2).to(dtype)
        return pairs[..., 0] << 8 | pairs[..., 1]

    whole_bytes = width in (8, 16)
    numpy_view = [lambda: torch.from_numpy(array.view(f">u{width // 8}").astype(number).reshape(size))]
    return {
        "op": [lambda: unpack_subtokens(packed, shape, dtype)],
        "floor": [copy_of(packed, unpack_subtokens(packed, shape, dtype))],
        "torch": [lambda: fallback.unpack_subtokens(packed, shape, dtype), torch_by_windows]
        + ([torch_by_view] if whole_bytes else []),
        "numpy": [numpy_by_weights, numpy_by_bytes] + (numpy_view if whole_bytes else []),
    }


def unpack_narrow_ways(shape: CodeShape, images: int) -> Ways:
    return unpack_ways(shape, images, torch.int32)


# --- Ways to write bits -----------------------------------------------------------------------------------------------


def spread_ways(shape: CodeShape, images: int) -> Ways:
    ids = unpack_subtokens(random_packed(shape, images), shape)
    array, width = ids.numpy(), shape.subtoken_bits

    def by_numpy() -> Tensor:
        bits = np.unpackbits(array.astype(">u2").view(np.uint8), axis=-1).reshape(*array.shape, 16)[..., 16 - width :]
        return torch.from_numpy(bits.reshape(images, shape.positions, -1))

    return {
        "op": [lambda: subtokens_to_bits(ids, width)],
        "floor": [copy_of(ids, subtokens_to_bits(ids, width))],
        "torch": [lambda: fallback.subtokens_to_bits(ids, width)],
        "numpy": [by_numpy],
    }


# --- Ways to embed ----------------------------------------------------------------------------------------------------


def embed_ways(shape: CodeShape, images: int, channels: int, dtype: torch.dtype) -> Ways:
    """The others get their ids from the compiled `unpack_subtokens`."""
    packed = random_packed(shape, images)
    tables = [
        torch.randint(-8, 9, (shape.vocabulary, channels)).to(dtype) for _ in range(shape.subtokens)
    ]  # exact sums
    stacked = torch.cat(tables)
    offsets = torch.arange(shape.subtokens) * shape.vocabulary

    def bag() -> Tensor:
        bags = (unpack_subtokens(packed, shape) + offsets).flatten(0, 1)
        return F.embedding_bag(bags, stacked, mode="sum").unflatten(0, (images, shape.positions))

    def embeddings() -> Tensor:
        ids = unpack_subtokens(packed, shape)
        total = F.embedding(ids[..., 0], tables[0])
        for s in range(1, shape.subtokens):
            total = total + F.embedding(ids[..., s], tables[s])
        return total

    return {"op": [lambda: embed_packed(packed, tables, shape)], "bag": [bag], "torch": [embeddings]}


if __name__ == "__main__":
    main()

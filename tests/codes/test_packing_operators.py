"""The compiled operations as torch sees them: schemas, fake tensors, autograd, `torch.compile`, and refusals."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from elm_dist.codes.extension import DEVICES, ops
from elm_dist.codes.packing import embed_packed, pack_bits, subtokens_to_bits, unpack_bits, unpack_subtokens
from elm_dist.codes.subtokens import CodeShape

pytestmark = pytest.mark.skipif("cpu" not in DEVICES, reason="the extension is not built")

SHAPE = CodeShape(16, 2, 10)
PACKED = torch.randint(0, 256, (3, SHAPE.packed_bytes), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SAMPLES = torch.arange(3)


def tables(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn((1025, 8), generator=generator).to(dtype).requires_grad_() for _ in range(2)]


CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("pack_bits", (torch.rand((3, 21)) < 0.5, None, 0)),
    ("pack_bits", (torch.rand((3, 21)), SAMPLES, 5)),
    ("unpack_subtokens", (PACKED, 16, 2, 10, torch.int64)),
    ("unpack_subtokens", (PACKED, 3, 2, 10, torch.int16)),
    ("subtokens_to_bits", (torch.arange(24, dtype=torch.int32).view(3, 4, 2), 9)),
    ("embed_packed", (PACKED, tables(), 15, 10, False, None)),
    ("embed_packed", (PACKED, tables(torch.bfloat16), 16, 10, True, torch.rand((3, 16)) < 0.5)),
]


@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_opcheck(name: str, arguments: tuple[Any, ...]) -> None:
    torch.library.opcheck(getattr(ops, name).default, arguments)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_fake_tensors_have_the_shape_and_type_of_real_ones(name: str, arguments: tuple[Any, ...], device: str) -> None:
    expected = getattr(ops, name)(*arguments)

    def fake(argument: Any) -> Any:
        if isinstance(argument, list):
            return [fake(item) for item in argument]
        if isinstance(argument, Tensor):
            return torch.empty(argument.shape, dtype=argument.dtype, device=device)
        return argument

    with FakeTensorMode():
        out = getattr(ops, name)(*map(fake, arguments))
    assert (out.shape, out.dtype, out.device.type) == (expected.shape, expected.dtype, device)


def whole(packed: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """All operations, one after the other."""
    ids = unpack_subtokens(packed, SHAPE)
    again = pack_bits(subtokens_to_bits(ids, 10).flatten(1))
    return embed_packed(again, weights, SHAPE, concat=True), unpack_bits(again, SHAPE)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_torch_compile_traces_everything_in_one_graph(backend: str) -> None:
    compiled: Callable[..., tuple[Tensor, Tensor]] = torch.compile(whole, fullgraph=True, backend=backend)
    results = []
    for function in (whole, compiled):
        weights = tables()
        embedded, bits = function(PACKED, weights)
        embedded.square().sum().backward()
        results.append([embedded.detach(), bits, *(weight.grad for weight in weights)])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


REFUSED: list[tuple[str, tuple[Any, ...], str]] = [
    ("pack_bits", (torch.zeros(8), None, 0), r"values must be \(batch, bits\)"),
    ("pack_bits", (torch.zeros((1, 8), dtype=torch.int64), None, 0), "values must be bool, uint8, float32 or bfloat16"),
    ("pack_bits", (torch.zeros((2, 8)), SAMPLES, 0), r"expected samples, int64 \(batch,\)"),
    ("unpack_subtokens", (PACKED.int(), 16, 2, 10, torch.int64), "packed must be uint8"),
    ("unpack_subtokens", (PACKED, 17, 2, 10, torch.int64), "a row of 40 bytes does not hold 17 positions of 2 x 10"),
    ("unpack_subtokens", (PACKED, -1, 2, 10, torch.int64), "does not hold -1 positions"),
    ("unpack_subtokens", (PACKED, 1, 2, 33, torch.int64), "a code must have 1 to 64 bits, not 2 x 33"),
    ("unpack_subtokens", (PACKED, 1, 2**62, 2**62, torch.int64), "a code must have 1 to 64 bits"),
    ("unpack_subtokens", (PACKED, 8, 2, 20, torch.int16), "sub-tokens of 20 bits do not fit ids of 16"),
    ("unpack_subtokens", (PACKED, 8, 2, 10, torch.float32), "ids must be uint8, int16, int32 or int64"),
    ("subtokens_to_bits", (torch.zeros((1, 2)), 10), "ids must be uint8, int16, int32 or int64"),
    ("subtokens_to_bits", (torch.zeros((1, 2), dtype=torch.int16), 17), "sub-tokens of 17 bits do not fit ids of 16"),
    ("subtokens_to_bits", (torch.zeros((1, 2), dtype=torch.int16), 0), "sub-tokens of 0 bits"),
    ("embed_packed", (PACKED, [], 16, 10, False, None), "a code must have 1 to 64 bits, not 0 x 10"),
    ("embed_packed", (PACKED, tables(), 16, 12, False, None), "does not hold 16 positions of 2 x 12"),
    ("embed_packed", (PACKED, tables(), 2, 11, False, None), "tables of 1025 entries are too small for 11 bits"),
    ("embed_packed", (PACKED, [tables()[0][:1024]] * 2, 16, 10, False, torch.ones((3, 16)) > 0), "mask token"),
    ("embed_packed", (PACKED, tables(), 16, 10, False, torch.ones((3, 15)) > 0), "expected masked, bool"),
    ("embed_packed", (PACKED, [tables()[0], tables()[1][:, :4]], 16, 10, False, None), "expected tables of one shape"),
    ("embed_packed", (PACKED, tables(torch.float64), 16, 10, False, None), "tables must be float32 or bfloat16"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED)
def test_what_would_reach_beyond_memory_is_refused(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        getattr(ops, name)(*arguments)

"""Runs the tests of a module once for each implementation of packing: plain torch, and the compiled SIMD levels."""

from collections.abc import Iterator

import pytest

from elm_dist.codes import packing
from elm_dist.codes.extension import DEVICES, SIMD_LEVELS, ops


@pytest.fixture(scope="module", params=["torch", *SIMD_LEVELS])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Force one implementation on the CPU, and return its name."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(packing, "DEVICES", frozenset())
        elif "cpu" not in DEVICES:
            pytest.skip("the extension is not built")
        else:
            level = SIMD_LEVELS.index(request.param)
            if ops.simd_level(level) < level:
                pytest.skip(f"this processor has no {request.param}")
        yield request.param
    if "cpu" in DEVICES:
        ops.simd_level(len(SIMD_LEVELS) - 1)

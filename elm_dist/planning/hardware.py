"""GPUs and networks by name: memory, speed and links, from their makers' data sheets. Measures nothing."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from elm_dist.errors import LayoutError

GB, GIB = 1e9, 2.0**30
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Gpu:
    """One GPU and its link to the others of its node.

    `efficiency` is the share of the peak that matrix products reach. It is fitted to llm-foundry's published runs for
    A100 (0.74) and H100 (0.55), whose families have theirs; 0.65 is a guess for the others.
    """

    memory: float  # bytes that a process can have: what is printed on the card, less the driver's part
    peaks: Mapping[Precision, float]  # dense FLOP/s; fp32 without TF32, which PyTorch leaves off
    bandwidth: float  # of its memory, bytes/s
    link: float  # to the GPUs of its node, bytes/s in one direction
    efficiency: float = 0.65


@dataclass(frozen=True)
class Fabric:
    """The network between nodes; `bandwidth` is that of all of a node's cards together, bytes/s in one direction."""

    bandwidth: float


@dataclass(frozen=True)
class Cluster:
    """`nodes` equal machines."""

    nodes: int
    gpus_per_node: int
    gpu: Gpu
    fabric: Fabric

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


AMPERE: Mapping[Precision, float] = {"fp32": 19.5e12, "bf16": 312e12, "fp16": 312e12}
HOPPER: Mapping[Precision, float] = {"fp32": 67e12, "bf16": 989e12, "fp16": 989e12}

GPUS = {
    # NVIDIA A100 datasheet (SXM4): NVLink 600 GB/s, both directions together. The A800 has 400 GB/s of it.
    "a100-40gb": Gpu(39.4 * GIB, AMPERE, 1555 * GB, 300 * GB, 0.74),
    "a100-80gb": Gpu(79.2 * GIB, AMPERE, 2039 * GB, 300 * GB, 0.74),
    "a800-80gb": Gpu(79.2 * GIB, AMPERE, 2039 * GB, 200 * GB, 0.74),
    # NVIDIA H100 and H200 datasheets (SXM5): NVLink 900 GB/s. The H800 has 400 GB/s of it.
    "h100-80gb": Gpu(79.2 * GIB, HOPPER, 3350 * GB, 450 * GB, 0.55),
    "h800-80gb": Gpu(79.2 * GIB, HOPPER, 3350 * GB, 200 * GB, 0.55),
    "h200-141gb": Gpu(139.8 * GIB, HOPPER, 4800 * GB, 450 * GB, 0.55),
    # NVIDIA L40S datasheet: PCIe 4.0 x16.
    "l40s": Gpu(44.4 * GIB, {"fp32": 91.6e12, "bf16": 362e12, "fp16": 362e12}, 864 * GB, 32 * GB),
    # NVIDIA V100 datasheet (SXM2): no bf16, NVLink 300 GB/s.
    "v100-32gb": Gpu(31.7 * GIB, {"fp32": 15.7e12, "fp16": 125e12}, 900 * GB, 150 * GB),
    # NVIDIA Ada whitepaper, GeForce RTX 4090: sums in fp32 at half of the rate in fp16; PCIe 4.0 x16.
    "rtx4090": Gpu(23.5 * GIB, {"fp32": 82.6e12, "bf16": 165e12, "fp16": 165e12}, 1008 * GB, 32 * GB),
}

# The rate of the wire, 8 bits to a byte.
FABRICS = {
    "ib-ndr400-x8": Fabric(8 * 50 * GB),  # eight rails of 400 Gb/s, one for each GPU, as in DGX H100
    "ib-hdr200-x8": Fabric(8 * 25 * GB),  # as in DGX A100
    "ib-hdr200": Fabric(25 * GB),  # one card for the whole node
    "roce-100g": Fabric(12.5 * GB),
    "eth-25g": Fabric(3.125 * GB),
    "eth-10g": Fabric(1.25 * GB),
}

Hardware = TypeVar("Hardware", Gpu, Fabric)


def find_gpu(name: str) -> Gpu:
    """Return the GPU called `name`. Raises LayoutError with the nearest name."""
    return _find("GPU", name, GPUS)


def find_fabric(name: str) -> Fabric:
    """Return the network called `name`. Raises LayoutError with the nearest name."""
    return _find("fabric", name, FABRICS)


def _find(what: str, name: str, known: dict[str, Hardware]) -> Hardware:
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]}? " if near else ""
        raise LayoutError(f"no {what} is called {name}; {hint}there are {', '.join(known)}")
    return known[name]

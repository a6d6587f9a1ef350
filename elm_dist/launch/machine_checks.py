"""What `elm doctor` looks at on one machine: devices, software, memory, disks and data; each check is one function.

A check returns what it found and what to do about it. It raises nothing: what cannot be found out is a finding, too.
"""

import contextlib
import os
import platform
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import torch

from elm_dist.codes.packing import implementation
from elm_dist.config import Config
from elm_dist.devices import choose_device
from elm_dist.errors import ElmError
from elm_dist.launch.data_check import check_data
from elm_dist.model.cost import count_parameters
from elm_dist.parallel.environment import ProcessEnvironment

PROBE_BYTES = 128 * 2**20
SLOW_DISK = 100 * 2**20  # bytes per second; a checkpoint of a billion parameters, 16 GB, takes minutes below it
SMALL_SHARED_MEMORY = 2**30
BYTES_PER_PARAMETER = 16  # of a checkpoint: weights, their average and two moments, in fp32


@dataclass(frozen=True)
class Finding:
    """One line of the report. `good` needs nothing, `poor` costs time or luck, `bad` keeps a run from starting."""

    subject: str
    found: str
    verdict: Literal["good", "poor", "bad"] = "good"
    remedy: str = ""


def check_machine(config: Config | None, environment: ProcessEnvironment) -> Iterator[Finding]:
    """Yield what is found on this machine; with a configuration, also whether its run has what it needs."""
    yield Finding("host", f"{socket.gethostname()}, {platform.system()} {platform.release()}, {os.cpu_count()} cores")
    yield _check_device(config.parallel.device if config else "auto")
    yield _check_versions()
    yield _check_extension()
    yield _check_shared_memory()
    yield _check_port(environment)
    if config is not None:
        yield from _check_disk(config)
        yield _check_data(config)


def _check_device(wanted: str) -> Finding:
    try:
        device = choose_device(wanted)
    except ElmError as error:
        return Finding("device", "no GPU", "bad", str(error))
    if device.type == "cuda":
        gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        named = ", ".join(f"{gpu.name} {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus)
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
        return Finding("device", f"{named}; CUDA {torch.version.cuda}, NCCL {nccl}, driver {_driver_version()}")
    if wanted == "auto" and shutil.which("nvidia-smi"):
        remedy = "there is a driver, but torch sees no GPU: see `nvidia-smi`, and install a build of torch with CUDA"
        return Finding("device", f"CPU, torch {torch.__version__}", "bad", remedy)
    return Finding("device", f"CPU, torch {torch.__version__}, {torch.get_num_threads()} threads")


def _driver_version() -> str:
    """Return NVIDIA's, as the kernel module says."""
    try:
        found = re.search(r"Module\s+([\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return "unknown"
    return found.group(1) if found else "unknown"


def _check_versions() -> Finding:
    """Compare what is installed with what the tests ran with: the exact versions that this package asks for."""
    tested = [line.split("==") for line in requires("elm-dist") or [] if re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    others, remedies = [], []
    for name, wanted in tested:
        try:
            found = version(name).partition("+")[0]  # +cpu, +cu130: builds of one version
        except PackageNotFoundError:
            found = "missing"
        if found != wanted:
            others.append(f"{name} {found} (tested: {wanted})")
            remedies.append(f"{name}=={wanted}")
    if others:
        return Finding("versions", ", ".join(others), "poor", f"pip install {' '.join(remedies)}")
    return Finding("versions", f"all {len(tested)} as tested, Python {platform.python_version()}")


def _check_extension() -> Finding:
    found = implementation()
    if found.startswith("compiled"):
        return Finding("bit packing", found)
    return Finding(
        "bit packing", found, "poor", "install a C++ compiler and run `pip install --no-build-isolation -e .`"
    )


def _check_shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding("shared memory", "none", "poor", "NCCL between GPUs of a machine needs /dev/shm")
    size = shutil.disk_usage(path).total
    if size < SMALL_SHARED_MEMORY:
        return Finding("shared memory", _bytes(size), "poor", "start the container with --shm-size=8g or --ipc=host")
    return Finding("shared memory", _bytes(size))


def _check_port(environment: ProcessEnvironment) -> Finding:
    address, port = environment.master_address, environment.master_port
    try:
        found = socket.getaddrinfo(address, port)[0][4][0]
    except OSError as error:
        return Finding(
            "rendezvous",
            f"{address}:{port}",
            "bad",
            f"the name cannot be resolved ({error}); set MASTER_ADDR to one that can",
        )
    return Finding("rendezvous", f"{address} ({found}) port {port}, as {environment.source} says")


def _check_disk(config: Config) -> Iterator[Finding]:
    """Write and read a probe where the run will save, and compare the room with what its checkpoints need."""
    folder = config.run.directory
    while not folder.is_dir():
        folder = folder.parent
    needed = (
        count_parameters(config.model, config.tokenizer.grid) * BYTES_PER_PARAMETER * (config.checkpoint.keep_last + 1)
    )
    free = shutil.disk_usage(folder).free
    try:
        write, read = _probe(folder)
    except OSError as error:
        yield Finding("disk", f"{folder}: {error.strerror}", "bad", "choose a run.directory that can be written")
        return
    speed = f"{folder}: writes {_bytes(write)}/s, reads {_bytes(read)}/s"
    slow = write < SLOW_DISK
    yield Finding("disk", speed, "poor" if slow else "good", "saves will be slow: use a faster disk" if slow else "")
    small = free < needed
    remedy = "free some, lower checkpoint.keep_last, or choose another run.directory" if small else ""
    room = f"{_bytes(free)} free, {_bytes(needed)} needed for {config.checkpoint.keep_last} checkpoints and one in work"
    yield Finding("disk room", room, "bad" if small else "good", remedy)


def _probe(folder: Path) -> tuple[float, float]:
    """Return the bytes per second of writing a file through to the disk, and of reading it back from there."""
    path = folder / f".elm-doctor-{socket.gethostname()}-{os.getpid()}"
    data = os.urandom(PROBE_BYTES)
    try:
        begin = time.perf_counter()
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        written = time.perf_counter()
        with path.open("rb", buffering=0) as file:
            with contextlib.suppress(AttributeError, OSError):  # forget what memory holds of it
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(2**22):
                pass
        return PROBE_BYTES / (written - begin), PROBE_BYTES / (time.perf_counter() - written)
    finally:
        path.unlink(missing_ok=True)


def _check_data(config: Config) -> Finding:
    try:
        check_data(config)
    except ElmError as error:
        return Finding("data", str(config.data.shards), "bad", str(error))
    return Finding("data", f"{config.data.shards} fits the tokenizer and the run")


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"

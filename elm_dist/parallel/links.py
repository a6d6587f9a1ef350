"""How fast the processes of a job reach each other, and whose link is the slowest. Every process calls it alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

REDUCED_BYTES = 32 * 2**20
SENT_BYTES = 4 * 2**20
ROUNDS = 5


@dataclass(frozen=True)
class Links:
    """What was measured, the same on every process."""

    all_reduce_bytes_per_second: float  # of the bus: 2 (n - 1) / n x bytes / seconds, comparable for any n
    latency_seconds: float  # of an all-reduce of one number
    slowest_pair: tuple[int, int]  # sender and receiver
    slowest_bytes_per_second: float
    clock_skew_seconds: float  # between the first clock and the last


def measure_links(device: torch.device) -> Links:
    """Measure all-reduce and every pair, each in a round in which all processes send to the one so far from them."""
    rank, count = dist.get_rank(), dist.get_world_size()
    one, many = torch.zeros(1, device=device), torch.zeros(REDUCED_BYTES // 4, device=device)
    latency = _seconds(lambda: dist.all_reduce(one), device)
    reduce_seconds = _seconds(lambda: dist.all_reduce(many), device)
    slowest = max((_exchange_seconds(distance, device), (rank - distance) % count) for distance in range(1, count))
    table = torch.zeros((count, 3), dtype=torch.float64, device=device)
    dist.barrier()
    table[rank] = torch.tensor([*slowest, time.time()], dtype=torch.float64)
    dist.all_reduce(table)
    seconds, senders, clocks = table.unbind(dim=1)
    receiver = int(seconds.argmax())
    return Links(
        all_reduce_bytes_per_second=2 * (count - 1) / count * REDUCED_BYTES / reduce_seconds,
        latency_seconds=latency,
        slowest_pair=(int(senders[receiver]), receiver),
        slowest_bytes_per_second=SENT_BYTES / float(seconds[receiver]),
        clock_skew_seconds=float(clocks.max() - clocks.min()),
    )


def gather_texts(text: str, device: torch.device) -> list[str]:
    """Return the texts of all processes in the order of their ranks."""
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
    encoded = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(device)
    sizes[dist.get_rank()] = len(encoded)
    dist.all_reduce(sizes)
    padded = torch.zeros(int(sizes.max()), dtype=torch.uint8, device=device)
    padded[: len(encoded)] = encoded
    rows = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(rows, padded)
    return [bytes(row[:size].cpu().numpy()).decode() for row, size in zip(rows, sizes.tolist(), strict=True)]


def _exchange_seconds(distance: int, device: torch.device) -> float:
    """Return how long it takes to send to the process `distance` ahead, and receive from the one as far behind."""
    rank, count = dist.get_rank(), dist.get_world_size()
    ahead, behind = (rank + distance) % count, (rank - distance) % count
    sent, received = (torch.zeros(SENT_BYTES // 4, device=device) for _ in range(2))

    def exchange() -> None:
        operations = [dist.P2POp(dist.isend, sent, ahead), dist.P2POp(dist.irecv, received, behind)]
        for work in dist.batch_isend_irecv(operations):
            work.wait()

    return _seconds(exchange, device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the median time of some rounds of `work`, after one that sets up connections."""
    times = []
    for _ in range(ROUNDS + 1):
        dist.barrier()
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])

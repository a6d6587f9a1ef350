"""`elm doctor`: whether a machine, or all machines of a job, can do a run: a table, and what to do about each line."""

import json
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table

from elm_dist.config import Config
from elm_dist.devices import own_device
from elm_dist.files import replace_text
from elm_dist.launch.machine_checks import Finding, check_machine
from elm_dist.parallel.environment import process_environment
from elm_dist.parallel.links import gather_texts, measure_links
from elm_dist.parallel.replicas import join_replicas

TIMEOUT_MINUTES = 5.0
COLOURS = {"good": "green", "poor": "yellow", "bad": "red"}
SKEWED_SECONDS = 1.0
SLOW_LINK = 0.5  # of the bus bandwidth of all: a link that holds the others up


@dataclass(frozen=True)
class Diagnosis:
    """All findings, of each machine its own; rich prints them as a table."""

    findings: list[tuple[str, Finding]]  # with the host that they are of

    @property
    def is_good(self) -> bool:
        """Whether nothing keeps a run from starting."""
        return all(finding.verdict != "bad" for _, finding in self.findings)

    def to_json(self) -> str:
        found = [{"host": host, **asdict(finding)} for host, finding in self.findings]
        return json.dumps({"is_good": self.is_good, "findings": found}, indent=1) + "\n"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title="elm doctor")
        several = len({host for host, _ in self.findings}) > 1
        for heading in (*(["machine"] if several else []), "what", "found", "is", "what to do"):
            table.add_column(heading, overflow="fold")
        for host, finding in self.findings:
            verdict = f"[{COLOURS[finding.verdict]}]{finding.verdict}[/]"
            cells = (escape(finding.subject), escape(finding.found), verdict, escape(finding.remedy))
            table.add_row(*([host] if several else []), *cells)
        yield table
        yield "ready to run" if self.is_good else "not ready: see what to do about the lines that are bad"


def diagnose(config: Config | None, out: Path | None) -> Diagnosis | None:
    """Examine this machine, or together with its other processes all machines of a job, and write it to `out`.

    Returns the diagnosis on the main process, None on the others. One process of each machine examines it.
    """
    environment = process_environment()
    wanted = config.parallel.device if config else "auto"
    here, host = environment.local_rank == 0, socket.gethostname()
    findings = [(host, finding) for finding in check_machine(config, environment)] if here else []
    with join_replicas(environment, wanted, TIMEOUT_MINUTES) as processes:
        if processes.count > 1:
            device = own_device(wanted, environment.local_rank)
            texts = gather_texts(json.dumps([[host, asdict(finding)] for host, finding in findings]), device)
            findings = [(host, Finding(**facts)) for text in texts for host, facts in json.loads(text)]
            findings += [("all", finding) for finding in _check_links(device)]
    if not environment.is_main:
        return None
    diagnosis = Diagnosis(findings)
    if out is not None:
        replace_text(out, diagnosis.to_json())
    return diagnosis


def _check_links(device: torch.device) -> Iterator[Finding]:
    links, count = measure_links(device), dist.get_world_size()
    reduced, slowest = (speed / 2**30 for speed in (links.all_reduce_bytes_per_second, links.slowest_bytes_per_second))
    yield Finding(
        "all-reduce",
        f"{count} processes over {dist.get_backend()}: {reduced:.2f} GiB/s on the bus, "
        f"{1e6 * links.latency_seconds:,.0f} us for one number",
    )
    sender, receiver = links.slowest_pair
    is_slow = slowest < SLOW_LINK * reduced
    yield Finding(
        "slowest pair",
        f"rank {sender} to rank {receiver}: {slowest:.2f} GiB/s",
        "poor" if is_slow else "good",
        "it is far below the rest: look at the network of their machines, and at NCCL_SOCKET_IFNAME" if is_slow else "",
    )
    is_skewed = links.clock_skew_seconds > SKEWED_SECONDS
    yield Finding(
        "clocks",
        f"within {links.clock_skew_seconds:.2f} s",
        "poor" if is_skewed else "good",
        "times in logs will mislead: synchronize them (chrony, ntpd)" if is_skewed else "",
    )

"""How much of a run's time went into steps that count, and where the rest went, from its events.

Goodput = useful / elapsed. Useful is what is left of the elapsed time without restarts (from the last sign of life of
one process to the first step of the next), replay (steps done again because their results were lost), saves that held
the training up, and waiting for data. The time between a stop on request and the next start, in which a job may wait
for its turn, belongs to nobody and is left out. Clocks that went backwards count as standing still.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, zip_longest

from elm_dist.monitoring.events import BEGINS, ENDS, Event


@dataclass(frozen=True)
class Goodput:
    """Seconds of a run; `str` is the account of them."""

    elapsed: float = 0.0
    restart: float = 0.0
    replay: float = 0.0
    save: float = 0.0
    data_wait: float = 0.0
    starts: int = 0
    faults: int = 0  # that ended a process, or sent the run back to a checkpoint

    @property
    def useful(self) -> float:
        return max(self.elapsed - self.restart - self.replay - self.save - self.data_wait, 0.0)

    @property
    def percent(self) -> float:
        return 100 * (self.useful / self.elapsed) if self.elapsed else 100.0  # never above 100 in this order

    def going_on(self, elapsed: float, save: float, data_wait: float) -> "Goodput":
        """Return the account with so many seconds more, in which nothing failed."""
        elapsed, save, data_wait = self.elapsed + elapsed, self.save + save, self.data_wait + data_wait
        return replace(self, elapsed=elapsed, save=save, data_wait=data_wait)

    def __str__(self) -> str:
        lost = (("restarts", self.restart), ("replay", self.replay), ("saves", self.save), ("data", self.data_wait))
        shares = ", ".join(f"{name} {100 * seconds / (self.elapsed or 1):.1f}%" for name, seconds in lost)
        line = f"{self.percent:.1f}% of {self.elapsed / 3600:.2f} h useful; lost to {shares}; {self.starts} starts"
        if self.faults:
            between = self.elapsed / self.faults / 3600
            line += f", {self.faults} faults, one every {between:.2g} h (checkpoint.mtbf_hours)"
        return line


def account(events: Sequence[Event]) -> Goodput:
    """Return the account of a run up to its last event."""
    stretches = _stretches(_steadied(events))
    total = Goodput()
    kept_to = float("inf")  # the step from which everything was done again later
    for index in reversed(range(len(stretches))):
        stretch, later = stretches[index], stretches[index + 1] if index + 1 < len(stretches) else None
        first, last = stretch[0], stretch[-1]
        end = next((event for event in stretch if event.step >= kept_to), last)  # the save that was gone on from
        has_failed = _has_failed(stretch, later is not None)
        setup = first.setup_seconds if index == 0 else 0.0
        pause = _between(last, later[0]) if later and has_failed else 0.0
        total = Goodput(
            elapsed=total.elapsed + setup + _between(first, last) + pause,
            restart=total.restart + setup + pause,
            replay=total.replay + _between(end, last),
            save=total.save + end.save_seconds - first.save_seconds,
            data_wait=total.data_wait + end.data_wait_seconds - first.data_wait_seconds,
            starts=total.starts + (first.kind == "start"),
            faults=total.faults + has_failed,
        )
        kept_to = min(kept_to, first.step)
    return total


def list_faults(events: Sequence[Event]) -> list[str]:
    """Return, for each process that ended without being told to, the last step that it reported and why it ended."""
    stretches = _stretches(events)
    faults = []
    for stretch, later in zip_longest(stretches, stretches[1:]):
        if _has_failed(stretch, later is not None):
            went_back = f"went back to step {later[0].step:,}" if later and later[0].kind == "rollback" else ""
            reason = stretch[-1].reason or went_back or "ended without a word"
            faults.append(f"after step {stretch[-1].step:,}: {reason}")
    return faults


def _has_failed(stretch: list[Event], is_followed: bool) -> bool:
    """Whether a stretch ended in a fault: what was killed wrote none, and is known by the start that follows."""
    return stretch[-1].kind == "fault" or (is_followed and stretch[-1].kind not in ENDS)


def _stretches(events: Sequence[Event]) -> list[list[Event]]:
    """Divide the events where a process starts, and where a running one goes back to an earlier step."""
    stretches: list[list[Event]] = []
    for event in events:
        if event.kind in BEGINS:
            stretches.append([event])
        elif stretches and stretches[-1][-1].kind not in ENDS:  # what fails before its first step is part of the pause
            stretches[-1].append(event)
    return stretches


def _steadied(events: Sequence[Event]) -> list[Event]:
    """Return the events at times that never go back: where a clock did, it stands still until it has caught up."""
    times = accumulate((event.time for event in events), max)
    return [replace(event, time=time) for event, time in zip(events, times, strict=True)]


def _between(one: Event, other: Event) -> float:
    return other.time - one.time

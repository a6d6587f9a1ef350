"""Turns the signals that end a job into a request to stop after the current step."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Some versions of NCCL take USR1 for themselves: USR2 does the same.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """Whether this process was told to stop, and what is to be done then."""

    def __init__(self) -> None:
        self.is_made = False
        self._act: Callable[[], None] = lambda: None

    def make(self) -> None:
        self.is_made = True
        self._act()

    def then(self, act: Callable[[], None]) -> None:
        """Call `act` when the request is made, at once if it was made before."""
        self._act = act
        if self.is_made:
            act()


@contextmanager
def on_stop_signal() -> Iterator[StopRequest]:
    """Give the request that is made when this process is told to end; a second signal does no more harm."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        request.make()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_on_stop_signals(code: int) -> None:
    """End with `code` and without a word from now on: for a process that has failed, while another says why."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: sys.exit(code))


def ignore_stop_signals() -> None:
    """Take no notice any more: for a process that has saved, and ends with the exit code that says so."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

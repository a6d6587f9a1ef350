"""Turns the signals that end a job into a request to stop after the current step."""

import signal
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def on_stop_signal(request_stop: Callable[[], None]) -> None:
    """Call `request_stop` when this process is told to end; a second signal does no more harm than the first."""

    def handle(number: int, frame: FrameType | None) -> None:
        request_stop()

    for number in SIGNALS:
        signal.signal(number, handle)

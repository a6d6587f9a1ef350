"""Signals to this very process, which is told to stop and goes on."""

import os
import signal
import subprocess
import sys

import pytest

from elm_dist.training.preemption import SIGNALS, StopRequest, on_stop_signal


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_request_and_a_second_one_does_no_harm(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with on_stop_signal() as stop:
        assert not stop.is_made
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop.is_made
    assert signal.getsignal(number) == before


def test_usr2_is_one_of_them() -> None:
    """For versions of NCCL that take USR1."""
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2} == set(SIGNALS)


def test_a_request_that_was_made_too_early_is_remembered() -> None:
    """Such as while the engine is built, when there is nobody yet to stop."""
    told: list[str] = []
    stop = StopRequest()
    stop.make()
    stop.then(lambda: told.append("at once"))
    assert told == ["at once"]
    later = StopRequest()
    later.then(lambda: told.append("later"))
    assert told == ["at once"]
    later.make()
    assert told == ["at once", "later"]


ENDING = """
import os, signal
from elm_dist.training.preemption import SIGNALS, ignore_stop_signals
ignore_stop_signals()
for number in SIGNALS:
    os.kill(os.getpid(), number)
"""


def test_a_process_that_has_saved_ends_with_its_own_exit_code() -> None:
    assert subprocess.run([sys.executable, "-c", ENDING]).returncode == 0


def test_a_process_that_has_failed_keeps_its_exit_code() -> None:
    code = "import time; from elm_dist.training.preemption import exit_on_stop_signals as exit_on; exit_on(2)\n"
    code += "print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 2
        assert process.stderr is not None
        assert process.stderr.read() == b""

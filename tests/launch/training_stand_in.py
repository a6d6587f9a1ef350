"""A training as `elm supervise` sees it, without the seconds that torch takes to start.

Usage: training_stand_in.py RUN PLAN, the PLAN being what each start does, such as "5:crash 3:finish": make so many
checkpoints, one a step, and end so. Where the plan is over, the last entry is repeated.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from elm_dist.monitoring.events import EVENTS, EventLog, append_event, read_events


def main(run: Path, plan: list[str]) -> int:
    starts = sum(event.kind == "start" for event in read_events(run / EVENTS))
    steps, _, end = plan[min(starts, len(plan) - 1)].partition(":")
    latest = run / "checkpoints" / "latest"
    latest.parent.mkdir(parents=True, exist_ok=True)
    step = int(latest.read_text().removeprefix("step_")) if latest.exists() else 0
    log = EventLog(run / EVENTS)
    told: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: told.append(number))
    log.start(step)
    for _ in range(int(steps)):
        step += 1
        latest.write_text(f"step_{step:08d}")
        log.write("save", step)
    if end == "refused":
        append_event(run / EVENTS, "fault", reason="another seed", exit_code=2)
        return 1  # as `torchrun` has it
    if end == "frozen":  # the launcher dies, and this process can do nothing any more
        frozen = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        frozen.send_signal(signal.SIGSTOP)
        (run / "frozen").write_text(str(frozen.pid))
        return 1
    while end == "told" and not told:
        time.sleep(0.01)
    if end in ("told", "finish"):
        log.write("stop" if end == "told" else "finish", step)
    return {"crash": 1, "killed": 0}.get(end, 0)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), sys.argv[2].split())
    sys.stdout.flush()
    os._exit(code)

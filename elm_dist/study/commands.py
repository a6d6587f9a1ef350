"""Runs `elm` commands one after another in one process, which spares the seconds that importing torch takes.

python -m elm_dist.study.commands "check configs/demo.yaml" "check configs/elm_l.yaml"
"""

import logging
import runpy
import shlex
import sys
from collections.abc import Sequence

log = logging.getLogger(__name__)


def run_commands(commands: Sequence[str]) -> int:
    """Run each as `elm COMMAND` until one fails; return its exit code, or 0."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for command in commands:
        log.info("$ elm %s", command)
        sys.argv = ["elm", *shlex.split(command)]
        try:
            runpy.run_module("elm_dist", run_name="__main__", alter_sys=False)
        except SystemExit as end:
            if end.code:
                return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    sys.exit(run_commands(sys.argv[1:]))

"""Runs the `elm` command line inside the test's own process, which spares the seconds of importing torch."""

import contextlib
import io
import sys
from typing import NamedTuple
from unittest.mock import patch

from elm_dist.cli.main import main


class Result(NamedTuple):
    code: int
    stdout: str
    stderr: str


def elm(*arguments: str) -> Result:
    """Run `elm ARGUMENTS` and return its exit code and what it wrote."""
    stdout, stderr = io.StringIO(), io.StringIO()
    code = 0
    with patch.object(sys, "argv", ["elm", *arguments]), contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(stdout))
        stack.enter_context(contextlib.redirect_stderr(stderr))
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return Result(code, stdout.getvalue(), stderr.getvalue())


def refused(*arguments: str) -> str:
    """Run `elm ARGUMENTS`, which must end with exit code 2 and no traceback, and return what it said."""
    result = elm(*arguments)
    assert result.code == 2, result
    assert "Traceback" not in result.stderr
    return result.stderr

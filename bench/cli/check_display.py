"""Results of checks, for a person and for a machine."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TextIO

from bench.contract.check import Result
from bench.contract.suite import Listener

_MARKS = {"passed": "ok  ", "failed": "FAIL", "not applicable": "n/a "}


def line(result: Result) -> str:
    """A check's result in one line."""
    if result.outcome == "passed":
        told = f" ({result.reason})" if result.reason else ""
    else:
        told = f": {result.reason}"
    return f"{_MARKS[result.outcome]}  {result.title}{told}"


def summary(method: str, results: Sequence[Result]) -> str:
    """How many checks passed, failed, and did not apply."""
    counts = Counter(result.outcome for result in results)
    return (
        f"{method}: {counts['passed']} passed, {counts['failed']} failed,"
        f" {counts['not applicable']} not applicable"
    )


def as_json_text(method: str, results: Sequence[Result]) -> str:
    """The same for machines."""
    counts = Counter(result.outcome for result in results)
    content = {
        "method": method,
        "passed": counts["passed"],
        "failed": counts["failed"],
        "not_applicable": counts["not applicable"],
        "checks": [asdict(result) for result in results],
    }
    return json.dumps(content, indent=2)


class CheckDisplay(Listener):
    """Prints each result as it comes, and on a terminal what is being checked.

    Parameters
    ----------
    stream
        Where lines go.
    verbose
        Whether tracebacks are printed, to standard error.
    """

    def __init__(self, stream: TextIO, verbose: bool) -> None:
        self._stream, self._verbose = stream, verbose
        self._terminal = sys.stderr.isatty()

    def started(self, title: str) -> None:
        """Show the check that is under way; the next line overwrites it."""
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"..    {title}"[:width], end="\r", file=sys.stderr, flush=True)  # noqa: T201

    def finished(self, result: Result) -> None:
        """Print the result."""
        if self._terminal:
            print("\x1b[2K", end="", file=sys.stderr, flush=True)  # noqa: T201
        print(line(result), file=self._stream, flush=True)
        if self._verbose and result.traceback:
            print(result.traceback, file=sys.stderr, flush=True)  # noqa: T201

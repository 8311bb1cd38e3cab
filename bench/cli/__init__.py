"""The commands. Each is thin over a function; heavy imports stay inside the commands."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from functools import cache
from importlib import import_module
from typing import Any

import typer

from bench.cli.apps import app
from bench.cli.options import DONE, INTERRUPTED, REFUSED, TERMINATED
from bench.cli.terminal import complain
from bench.cli.usage_errors import usage_message
from bench.errors import BenchError, DetachedError

_MODULES = (
    *("listing", "running", "tuning", "reporting", "auditing", "figures", "predict", "data"),
    *("data_adding", "encoders", "features"),
    *("citing", "study", "sharing", "tracking", "checking", "executing", "stored"),
)
"""Modules with commands, in the order of the help."""

_RESUMABLE = (["run"], ["tune"], ["import-weights"], ["study", "run"])
"""Commands that go on where they were ended."""

for _module in _MODULES:
    import_module(f"bench.cli.{_module}")


@cache
def program() -> Any:
    """The parser of all commands; typer's own call would build it anew each time."""
    return typer.main.get_command(app)


def main() -> None:
    """Run a command and turn what went wrong into one line and an exit status."""
    arguments = sys.argv[1:]
    terminated = []

    def terminate(*_: object) -> None:
        """Treat SIGTERM as Ctrl-C: everything is cleaned up in the same way."""
        terminated.append(True)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads it from the environment alone
    try:
        status = program()(args=arguments, prog_name="bench", standalone_mode=False) or DONE
        if status == INTERRUPTED:  # so typer reports Ctrl-C inside a command
            raise KeyboardInterrupt
        sys.exit(status)
    except typer.TyperException as error:
        message = usage_message(error, arguments)
        if message:  # empty where typer has printed a group's help
            complain(message)
        sys.exit(REFUSED)
    except BenchError as error:
        complain(str(error))
        sys.exit(REFUSED)
    except DetachedError as error:
        complain(f"{error}; follow with: {_again(arguments)}")
        status = INTERRUPTED if error.interrupted else DONE
        sys.exit(TERMINATED if terminated else status)
    except OSError as error:
        # What reaches this place is the machine's state: a cache folder that cannot be written,
        # a disk that is full. Results go through errors of their own.
        if error.errno is None:
            raise
        complain(f"{error.filename or 'the system'}: {os.strerror(error.errno)}")
        sys.exit(REFUSED)
    except KeyboardInterrupt:
        what, status = ("terminated", TERMINATED) if terminated else ("interrupted", INTERRUPTED)
        if arguments[:1] in _RESUMABLE or arguments[:2] in _RESUMABLE:
            complain(f"{what}; what is finished is kept, resume with: {_again(arguments)}")
        else:
            complain(what)
        sys.exit(status)


def _again(arguments: list[str]) -> str:
    """Command that continues an interrupted one."""
    once = {"--force", "--submit-only"}
    return shlex.join(["bench", *(part for part in arguments if part not in once)])

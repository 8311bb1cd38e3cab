"""The command that checks a method: check."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from bench.cli.options import FAILED, JsonOption, SettingsOption, settings_of


def check_command(
    method: Annotated[
        str,
        typer.Argument(help="Method; see 'bench list methods', or the path of a Python file."),
    ],
    settings: SettingsOption = None,
    no_demo: Annotated[
        bool, typer.Option("--no-demo", help="Leave out the run on the demo, the longest check.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show where a method's errors come from.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check that a method, built-in or your own, does what every method must."""
    from bench.contract.report import LinePrinter, as_json_text, summary
    from bench.contract.suite import check_method
    from bench.progress import TerminalWatcher

    printer = LinePrinter(sys.stderr if as_json else sys.stdout, verbose)
    chosen = settings_of(settings)
    with redirect_stdout(sys.stderr):
        results = check_method(
            method,
            settings=chosen,
            demo=not no_demo,
            listener=printer,
            jobs=TerminalWatcher,
        )
    typer.echo(as_json_text(method, results) if as_json else summary(method, results))
    if any(result.outcome == "failed" for result in results):
        raise typer.Exit(FAILED)

"""Commands that check a method, or this machine: check, doctor."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from bench.cli.apps import app
from bench.cli.help_pages import examples
from bench.cli.options import FAILED, JsonOption, ResultsOption, settings_of
from bench.cli.terminal import say_wrapped
from bench.execute.request import Request


@app.command("check", epilog=examples("bench check ridge", "bench check ./my_method.py"))
def check_command(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD", help="Name from 'bench list methods', or path of a Python file."
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a setting of the method. Repeatable."
        ),
    ] = None,
    no_demo: Annotated[
        bool, typer.Option("--no-demo", help="Leave out the longest check, the run on the demo.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print the tracebacks of failed checks.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check that a method keeps the contract of all methods.

    Exit status 1: a check failed.
    """
    from bench.cli.check_display import CheckDisplay, as_json_text, summary
    from bench.cli.run_display import RunDisplay
    from bench.contract.suite import check_method

    printer = CheckDisplay(sys.stderr if as_json else sys.stdout, verbose)
    with redirect_stdout(sys.stderr):
        results = check_method(
            method,
            settings=settings_of(settings),
            demo=not no_demo,
            listener=printer,
            jobs=RunDisplay,
        )
    typer.echo(as_json_text(method, results) if as_json else summary(method, results))
    if any(result.outcome == "failed" for result in results):
        raise typer.Exit(FAILED)


@app.command("doctor")
def doctor_command(results: ResultsOption = Request.results, as_json: JsonOption = False) -> None:
    """Check packages, devices, memory and folders of this machine.

    For each fault a remedy is printed. Exit status 1: a fault was found.
    """
    from bench.doctor import examine

    findings = examine(results)
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            mark = "ok  " if finding.good else "MEND"
            say_wrapped(f"{mark}  {finding.what}: {finding.found}", 6)
            if not finding.good:
                say_wrapped(f"      {finding.mend}", 6)
    if not all(finding.good for finding in findings):
        raise typer.Exit(FAILED)

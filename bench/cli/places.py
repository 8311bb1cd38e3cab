"""Commands on what is installed and where it is: list, sync, ui, check, doctor."""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import (
    FAILED,
    JsonOption,
    ResultsOption,
    TrackingOption,
)
from bench.cli.terminal import complain, print_rows
from bench.errors import BenchError
from bench.execute.request import Request


class ListedKind(StrEnum):
    """What ``bench list`` can list."""

    all = "all"
    methods = "methods"
    datasets = "datasets"
    protocols = "protocols"


def list_command(
    kind: Annotated[ListedKind, typer.Argument(help="What to list.")] = ListedKind.all,
    as_json: JsonOption = False,
) -> None:
    """List methods, datasets and protocols."""
    from bench.evaluate.names import ORACLE_SUMMARIES
    from bench.protocol.rules import PROTOCOLS
    from bench.registry import dataset_card, find_datasets, find_methods

    listing: dict[str, list[dict[str, str]]] = {}
    if kind in {ListedKind.all, ListedKind.methods}:
        listing["methods"] = [
            {"name": found.name, "from": found.source, "summary": found.summary}
            for found in find_methods().values()
        ]
        listing["methods"].append(
            {
                "name": "shuffled:METHOD",
                "from": "built-in",
                "summary": "Control: any method that looks at images, its test images permuted.",
            }
        )
        listing["methods"] += [
            {"name": name, "from": "built-in", "summary": summary}
            for name, summary in ORACLE_SUMMARIES.items()
        ]
    if kind in {ListedKind.all, ListedKind.datasets}:
        listing["datasets"] = []
        for name in find_datasets():
            card = dataset_card(name)
            count = f"{len(card.sections)} / {len(card.patients)}"
            listing["datasets"].append(
                {"name": name, "sections / patients": count, "summary": card.title}
            )
    if kind in {ListedKind.all, ListedKind.protocols}:
        listing["protocols"] = [
            {"name": protocol.name, "hash": protocol.hash[:12], "summary": protocol.title}
            for protocol in PROTOCOLS.values()
        ]
    if as_json:
        typer.echo(json.dumps(listing, indent=2))
        return
    for title, rows in listing.items():
        print_rows(title, rows)


def sync_command(results: ResultsOption = Request.results, tracking: TrackingOption = None) -> None:
    """Upload the stored runs that a tracking store has not seen; calling again adds nothing."""
    from bench.tracking.upload import sync, tracking_uri

    failure = sync(results, tracking_uri(tracking, results), typer.echo)
    if failure:
        complain(failure)
        raise typer.Exit(FAILED)


def ui_command(
    results: ResultsOption = Request.results,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Open MLflow's pages on the results; stop with Ctrl-C."""
    from bench.tracking.database import ARTIFACTS
    from bench.tracking.pages import public
    from bench.tracking.upload import newest_page, open_database, tracking_uri

    uri = tracking_uri(None, results)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise BenchError(f"{results}: nothing has been tracked here; make a run with 'bench run'")
    if (told := open_database(results, uri)) is not None:
        complain(told)
    page = newest_page(results, uri)
    if uri.startswith(("http://", "https://")):
        typer.echo(f"MLflow runs at {public(uri).rstrip('/')}{page or ''}")
        return
    typer.echo(f"MLflow on {public(uri)}: http://127.0.0.1:{port} (Ctrl-C stops it)")
    if page is not None:
        typer.echo(f"Newest runs, best first: http://127.0.0.1:{port}{page}")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    command += ["--default-artifact-root", (results / ARTIFACTS).resolve().as_uri()]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Six processes for jobs that these results do not have.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 - signals must reach MLflow itself


def check_command(
    method: Annotated[str, typer.Argument(help="Method; see 'bench list methods'.")],
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
    with redirect_stdout(sys.stderr):
        results = check_method(method, demo=not no_demo, listener=printer, jobs=TerminalWatcher)
    typer.echo(as_json_text(method, results) if as_json else summary(method, results))
    if any(result.outcome == "failed" for result in results):
        raise typer.Exit(FAILED)


def doctor_command(results: ResultsOption = Request.results, as_json: JsonOption = False) -> None:
    """Check this machine: packages, devices, memory, folders; say how to mend what is wrong."""
    from bench.doctor import examine

    findings = examine(results)
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            mark = "ok  " if finding.good else "MEND"
            typer.echo(f"{mark}  {finding.what}: {finding.found}")
            if not finding.good:
                typer.echo(f"      {finding.mend}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(FAILED)

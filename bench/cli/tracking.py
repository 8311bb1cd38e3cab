"""Commands on the tracking store: sync, ui."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.apps import app
from bench.cli.options import FAILED, ResultsOption, TrackingOption
from bench.cli.terminal import complain
from bench.errors import BenchError
from bench.execute.request import Request


@app.command("sync")
def sync_command(results: ResultsOption = Request.results, tracking: TrackingOption = None) -> None:
    """Upload stored runs to an MLflow tracking store.

    Runs that the store has already are not uploaded again.
    """
    from bench.tracking.upload import sync, tracking_uri

    failure = sync(results, tracking_uri(tracking, results), typer.echo)
    if failure:
        complain(failure)
        raise typer.Exit(FAILED)


@app.command("ui")
def ui_command(
    results: ResultsOption = Request.results,
    port: Annotated[
        int, typer.Option(metavar="N", min=1, max=65535, help="Port on this machine.")
    ] = 5000,
) -> None:
    """Serve the MLflow pages of the results; Ctrl-C stops it."""
    from bench.tracking.database import ARTIFACTS
    from bench.tracking.pages import public
    from bench.tracking.tracking_store import open_database
    from bench.tracking.upload import newest_page, tracking_uri

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

"""The command that says what to cite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.apps import app
from bench.cli.options import ResultsOption, names
from bench.cli.terminal import say
from bench.errors import BenchError
from bench.execute.request import Request


@app.command("cite")
def cite_command(
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Beginnings of keys.", show_default="all runs"),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="Dataset.", show_default="all")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", "-m", help="Methods or labels of rows, comma-separated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write: NAME.bib.", show_default="print"),
    ] = None,
    results: ResultsOption = Request.results,
) -> None:
    """Give the references of stored runs in BibTeX: methods, datasets, encoders, this program."""
    from bench.inventory import chosen_runs, list_runs
    from bench.report.citations import write_bibliography
    from bench.report.cite import references
    from bench.store import read_run

    entries = chosen_runs(
        list_runs(results), keys=tuple(keys or ()), methods=names(method), dataset=dataset
    )
    facts = [facts for entry in entries if (facts := read_run(entry.path)) is not None]
    if not facts:
        raise BenchError(f"{results}: no such run here; see 'bench runs list'")
    found = references(facts)
    if out is not None:
        say(str(write_bibliography(out, found)))
        return
    typer.echo("\n".join(citation.entry() for citation in found), nl=False)

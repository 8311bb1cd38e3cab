"""The command that says what to cite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.apps import app
from bench.cli.options import ResultsOption, RunsDatasetOption, RunsMethodOption, names
from bench.cli.terminal import say
from bench.errors import BenchError
from bench.execute.request import Request


@app.command("cite")
def cite_command(
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY",
            help="First characters of the keys of runs, as 'bench runs list' prints them.",
            show_default="all runs",
        ),
    ] = None,
    dataset: RunsDatasetOption = None,
    method: RunsMethodOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File to write: NAME.bib.",
            show_default="print to the terminal",
        ),
    ] = None,
    results: ResultsOption = Request.results,
) -> None:
    """Print the BibTeX references of stored runs.

    References are those of methods, datasets, encoders and this program.
    """
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

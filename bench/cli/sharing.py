"""Commands that share results: import, and export of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.apps import app
from bench.cli.options import ResultsOption
from bench.cli.terminal import complain, say
from bench.execute.request import Request
from bench.files import printable

_SHOWN = 12
"""Repeated runs that are listed in full."""


def export_results_command(
    *,
    out: Path,
    results: Path,
    dataset: str | None,
    methods: tuple[str, ...],
    protocol: str | None,
    run: str | None,
    predictions: bool,
    study: Path | None,
) -> None:
    """The part of ``bench export`` that writes results."""
    from bench.sharing.exporting import ExportRequest, export_results

    request = ExportRequest(
        results=results,
        out=out,
        dataset=dataset,
        protocol=protocol,
        methods=methods,
        run=run or "",
        predictions=predictions,
        study=study,
    )
    runs = export_results(request, lambda line: typer.echo(printable(line), err=True))
    folds = sum(len(run.done) for run in runs)
    say(f"{out}: {len(runs)} runs, {folds} folds, {out.stat().st_size / 1e6:.1f} MB")


@app.command("import")
def import_command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="NAME.spotbench.zip of 'bench export'.")
    ],
    name: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Name of the source in tables.", show_default="of the file"
        ),
    ] = "",
    other_data: Annotated[
        bool,
        typer.Option(
            "--other-data", help="Keep runs on other folds or data too; tables mark them."
        ),
    ] = False,
    results: ResultsOption = Request.results,
) -> None:
    """Take the results of another laboratory into a results folder, beside your own.

    The file is checked as a whole before anything is written.
    """
    from bench.sharing.importing import import_results

    done = import_results(file, results, name=name, other_data=other_data)
    again = f", {len(done.known)} were here already" if done.known else ""
    say(f"{len(done.imported)} runs imported from {done.origin}{again}")
    for comparison in done.comparisons:
        (complain if comparison.differences else say)(comparison.said)
        for difference in comparison.differences[1:]:
            complain(difference)
    for method in done.unknown_methods:
        say(f"{method}: is not installed here; its rows are kept as they were imported")
    for repetition in done.repetitions[:_SHOWN]:
        say(
            f"{repetition.label} (run {repetition.key[:12]}): {repetition.source}:"
            f" {repetition.said}"
        )
    if len(done.repetitions) > _SHOWN:
        say(f"and {len(done.repetitions) - _SHOWN} more; 'bench tables' has all as footnotes")

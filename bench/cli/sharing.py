"""Commands that share results: import, site, verify, submission, and export of results."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.apps import app, submission_app
from bench.cli.options import (
    DEFAULT_DEVICE,
    FAILED,
    AliasesOption,
    DataRootOption,
    DeviceOption,
    JsonOption,
    ResultsOption,
    StoredProtocolOption,
    check_file,
)
from bench.cli.terminal import complain, plural, say
from bench.errors import BenchError
from bench.execute.request import Request
from bench.files import printable
from bench.sharing import DEFAULT_TOLERANCE

if TYPE_CHECKING:
    from bench.sharing.verifying import Verification

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
        Path, typer.Argument(metavar="FILE", help="NAME.spotbench.zip from 'bench export'.")
    ],
    name: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Name of the source in tables.",
            show_default="that in the file",
        ),
    ] = "",
    other_data: Annotated[
        bool,
        typer.Option(
            "--other-data", help="Also import runs on other folds or data; tables mark them."
        ),
    ] = False,
    results: ResultsOption = Request.results,
) -> None:
    """Import results of another laboratory into a results folder.

    The whole file is checked before anything is written.
    """
    from bench.sharing.importing import import_results

    done = import_results(file, results, name=name, other_data=other_data)
    again = f", {len(done.known)} were here already" if done.known else ""
    say(f"{plural(len(done.imported), 'run')} imported from {done.origin}{again}")
    for comparison in done.comparisons:
        (complain if comparison.differences else say)(comparison.said)
        for difference in comparison.differences[1:]:
            complain(difference)
    for method in done.unknown_methods:
        say(f"{method}: is not installed here; its rows are kept as they were imported")
    equal = [one for one in done.repetitions if one.equal]
    if equal:
        sources = " and ".join(sorted({one.source for one in equal}))
        say(f"{sources}: {plural(len(equal), 'run')} with equal scores in all sections")
    different = [one for one in done.repetitions if not one.equal]
    for repetition in different[:_SHOWN]:
        say(
            f"{repetition.label} (run {repetition.key[:12]}): {repetition.source}:"
            f" {repetition.said}"
        )
    if len(different) > _SHOWN:
        say(f"and {len(different) - _SHOWN} more; 'bench tables' has all as footnotes")


@app.command("site")
def site_command(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RESULTS", help="Results folders.", show_default="that of --results"
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write to.")
    ] = Path("public"),
    with_runs: Annotated[
        bool, typer.Option("--with-runs", help="Add the runs as a file for 'bench import'.")
    ] = False,
    results: ResultsOption = Request.results,
) -> None:
    """Write static web pages with rankings of methods."""
    from bench.report.site import write_site

    folders = tuple(sources or [results])
    archives = _archives(folders) if with_runs else ()
    with redirect_stdout(sys.stderr):
        done = write_site(
            folders, out, archives=archives, say=lambda line: typer.echo(printable(line), err=True)
        )
    say(
        f"{out / 'index.html'}: {plural(done.rankings, 'ranking')},"
        f" {plural(done.rows, 'row')}, {plural(done.methods, 'method')}"
    )


def _archives(folders: Sequence[Path]) -> list[tuple[str, bytes]]:
    """Results of each folder as a file, by name."""
    from bench.sharing.exporting import ExportRequest, export_results

    archives = []
    with TemporaryDirectory(prefix="spotbench-site-") as name:
        for number, folder in enumerate(folders):
            file = "runs.spotbench.zip" if len(folders) == 1 else f"runs-{number}.spotbench.zip"
            try:
                export_results(ExportRequest(folder, Path(name) / file), complain)
            except BenchError as error:
                complain(f"{error}; its runs are not among the downloads")
                continue
            archives.append((file, (Path(name) / file).read_bytes()))
    return archives


@app.command("verify")
def verify_command(
    run: Annotated[
        str,
        typer.Argument(
            metavar="KEY",
            help="First characters of the key of a run, as 'bench runs list' prints it.",
            show_default="the only run",
        ),
    ] = "",
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME|FILE",
            help="Dataset of the run, or path of its card.",
            show_default="any",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME|FILE",
            help="Method or row, or the file of your own method.",
            show_default="any",
        ),
    ] = None,
    protocol: StoredProtocolOption = None,
    fold: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Number of the fold to fit.", show_default="first finished"
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="X", help="Largest absolute difference of values that count as equal."
        ),
    ] = DEFAULT_TOLERANCE,
    aliases: AliasesOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            "-c",
            metavar="FILE|FOLDER",
            help="Checkpoint of a run of 'bench import-weights'.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = DEFAULT_DEVICE,
    data_root: DataRootOption = None,
    results: ResultsOption = Request.results,
    as_json: JsonOption = False,
) -> None:
    """Fit one fold of a stored run again and compare the results.

    Exit status 0: predictions and scores are equal; 1: they differ; 2: the fold cannot be fitted.
    """
    from bench.cli.run_display import RunDisplay
    from bench.sharing.verifying import VerifyRequest, verify

    check_file(aliases)
    request = VerifyRequest(
        key=run,
        results=results,
        dataset=dataset,
        protocol=protocol,
        method=method,
        fold=fold,
        tolerance=tolerance,
        data_root=data_root,
        aliases=aliases,
        checkpoint=checkpoint,
        device=device.value,
    )
    with redirect_stdout(sys.stderr), RunDisplay() as watcher:
        done = verify(request, watcher)
    if as_json:
        typer.echo(json.dumps(_as_json(done), indent=2))
    else:
        _print_verification(done)
    if not done.reproduced:
        raise typer.Exit(FAILED)


def _print_verification(done: Verification) -> None:
    say(f"{done.label} on {done.dataset}, protocol {done.protocol}, fold {done.fold}")
    if done.key == done.key_now:
        say(f"key: {done.key[:12]}, the same now")
    else:
        say(f"key: {done.key[:12]}, now it would be {done.key_now[:12]}")
    for change in done.changes:
        say(f"changed: {change}")
    if done.failure:
        say(f"not reproduced: the method failed ({done.failure})")
        return
    if math.isnan(done.predictions):
        say("predictions: none are stored")
    elif math.isinf(done.predictions):
        say("predictions: are of other spots or genes")
    else:
        say(f"predictions: largest difference {done.predictions:.3g} of {done.compared:,} values")
    say(f"scores: {done.scores.said}")
    verdict = "reproduced" if done.reproduced else "not reproduced"
    say(f"{verdict} within {done.tolerance:g}")


def _as_json(done: Verification) -> dict[str, Any]:
    """A verification as JSON has it; numbers that it has not become texts."""
    content = asdict(done) | {"reproduced": done.reproduced}
    for of in (content, content["scores"]):
        of |= {
            name: str(value)
            for name, value in of.items()
            if isinstance(value, float) and not math.isfinite(value)
        }
    return content


@submission_app.command("check")
def submission_check_command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="NAME.spotbench.zip from 'bench export'.")
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME|FILE",
            help="Dataset or card to compare the runs with.",
            show_default="the dataset that the file names",
        ),
    ] = None,
    data_root: DataRootOption = None,
    no_contract: Annotated[
        bool,
        typer.Option(
            "--no-contract", help="Leave out the longest check, 'bench check' of each method."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check submitted results; print one line per check.

    Exit status 0: no check failed; 1: a check failed.
    """
    from bench.registry import dataset_card
    from bench.sharing.submission import CheckedClaim, check_submission, has_failed

    def tell(claim: CheckedClaim) -> None:
        if not as_json:
            typer.echo(printable(f"{claim.outcome:7}  {claim.name}: {claim.reason}"))

    card = dataset_card(dataset) if dataset else None
    claims = check_submission(
        file, card=card, data_root=data_root, contract=not no_contract, say=tell
    )
    if as_json:
        typer.echo(json.dumps([vars(claim) for claim in claims], indent=2))
    if has_failed(claims):
        raise typer.Exit(FAILED)

"""Commands of studies: list, run, status, report."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.apps import study_app
from bench.cli.executor_options import (
    JobsOption,
)
from bench.cli.help_pages import examples
from bench.cli.option_groups import ExecutorGroup, WorkersGroup, with_groups
from bench.cli.options import (
    DEFAULT_DEVICE,
    DEFAULT_PRECISION,
    FAILED,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ResultsOption,
    TrackingOption,
    names,
)
from bench.cli.terminal import complain, print_rows, say
from bench.execute.executors.options import ExecutorOptions
from bench.execute.request import Request

if TYPE_CHECKING:
    from bench.study.declaration import Study
    from bench.study.planning import StudyGroup

StudyArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Name from 'bench study list', or path of a YAML file."),
]
OnlyOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Parts, datasets or rows of the study, comma-separated.",
        show_default="all",
    ),
]
RootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="FOLDER",
        help="Folder with one folder per dataset, named like the dataset.",
        show_default="$SPOTBENCH_DATA or the user's data folder",
    ),
]
PartialOption = Annotated[
    bool, typer.Option("--partial", help="Leave out sections whose image is missing.")
]


@study_app.command("list")
def list_studies(as_json: JsonOption = False) -> None:
    """List the studies that come with the package."""
    from bench.study.declaration import find_study, studies

    found = [find_study(name) for name in studies()]
    rows = [
        {
            "name": study.name,
            "parts": str(len(study.parts)),
            "datasets": str(len({one for part in study.parts for one in study.datasets_of(part)})),
            "summary": study.title,
        }
        for study in found
    ]
    typer.echo(json.dumps(rows, indent=2)) if as_json else print_rows("studies", rows)


@study_app.command(
    "run",
    epilog=examples(
        "bench study run mclstexp-2024 --plan",
        "bench study run mclstexp-2024 --only main,her2st --jobs 2",
    ),
)
@with_groups
def run_study(
    name: StudyArgument,
    *,
    only: OnlyOption = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the planned fits with their cost and stop.")
    ] = False,
    partial: PartialOption = False,
    jobs: JobsOption = ExecutorOptions.jobs,
    workers: WorkersGroup,
    device: DeviceOption = DEFAULT_DEVICE,
    precision: PrecisionOption = DEFAULT_PRECISION,
    where: ExecutorGroup,
    data_root: RootOption = None,
    results: ResultsOption = Request.results,
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the open fits of a study and write its tables and figures.

    The same call resumes an interrupted study. Rows whose data or weights are not on this machine
    are listed and skipped.
    """
    from bench.cli.run_display import RunDisplay
    from bench.execute.executors.choose import make_executor
    from bench.study.declaration import find_study
    from bench.study.planning import StudyOptions
    from bench.study.report import write_report
    from bench.study.running import labelled_runs, record_study, run_groups
    from bench.tracking.studied import tag_study
    from bench.tracking.upload import Tracker, tracking_uri

    study = find_study(name)
    executor = make_executor(where.options(jobs=jobs, **workers.values()))
    options = StudyOptions(
        data_root=data_root,
        results=results,
        device=device.value,
        precision=precision.value,
        only=names(only),
        partial=partial,
        elsewhere=executor.elsewhere,
    )
    groups = _planned(study, options)
    if plan:
        _print_plan(study, groups, as_json)
        return
    _print_plan(study, groups, False, err=True)
    record_study(study, groups, results, whole=not options.only)
    uri = tracking_uri(tracking, results)
    with redirect_stdout(sys.stderr), RunDisplay() as watcher:
        outcome = run_groups(
            groups,
            executor,
            lambda request: Tracker(uri, results, watcher.warn, request.dataset, request.data_root),
            watcher,
            watcher.print,
        )
        # A run in several parts keeps the label of the first.
        labels = {run.folder: label for run, label in reversed(labelled_runs(groups))}
        tag_study(uri, results, study.name, labels, watcher.warn)
        written = write_report(study, results)
    for group, failure in outcome.failures:
        complain(
            f"{group.part.name}, {group.dataset}: {failure.label}, fold {failure.fold} failed:"
            f" {failure.reason}"
        )
    for group, reason in outcome.refused:
        complain(f"{group.part.name}, {group.dataset}: {reason}")
    _print_missing(groups)
    if as_json:
        typer.echo(json.dumps(_facts(study, groups) | {"files": list(map(str, written))}, indent=2))
    else:
        for path in (one for one in written if one.parent == written[0].parent):
            say(str(path))
    if outcome.failures or outcome.refused:
        raise typer.Exit(FAILED)


@study_app.command("status")
def study_status(
    name: StudyArgument,
    only: OnlyOption = None,
    partial: PartialOption = False,
    device: DeviceOption = DEFAULT_DEVICE,
    precision: PrecisionOption = DEFAULT_PRECISION,
    data_root: RootOption = None,
    results: ResultsOption = Request.results,
    as_json: JsonOption = False,
) -> None:
    """Show which fits of a study are done, open or impossible here.

    Nothing is run. The plan is made for the device of this machine; for runs made on another device
    name it with --device and --precision.
    """
    from bench.study.declaration import find_study
    from bench.study.planning import StudyOptions

    study = find_study(name)
    options = StudyOptions(
        data_root=data_root,
        results=results,
        device=device.value,
        precision=precision.value,
        only=names(only),
        partial=partial,
    )
    _print_plan(study, _planned(study, options), as_json)


@study_app.command("report")
def study_report(
    name: StudyArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Folder to write to.",
            show_default="studies/NAME in the results folder",
        ),
    ] = None,
    results: ResultsOption = Request.results,
) -> None:
    """Write the tables, figures and page of a study from stored runs.

    Nothing is run.
    """
    from bench.study.declaration import find_study
    from bench.study.report import write_report

    with redirect_stdout(sys.stderr):
        written = write_report(find_study(name), results, out)
    for path in written:
        say(str(path))


def _planned(study: Study, options: Any) -> list[StudyGroup]:
    from bench.study.planning import plan_study

    with redirect_stdout(sys.stderr):
        return plan_study(study, options)


def _facts(study: Study, groups: Sequence[StudyGroup]) -> dict[str, Any]:
    from bench.study.costs import fit_costs, total
    from bench.study.planning import seen
    from bench.study.running import plan_facts

    each = []
    for group in groups:
        cost = total(fit_costs(group.open, group.request.preset))
        told = {key: None if value != value else value for key, value in cost.items()}
        each.append(plan_facts(group) | {"cost": told})
    hints = {key: value for key, value in study.executor.model_dump().items() if value is not None}
    return {"study": study.name, **seen(groups), "hints": hints, "plan": each}


def _print_plan(
    study: Study, groups: Sequence[StudyGroup], as_json: bool, err: bool = False
) -> None:
    """Print the plan: fits, hours, memory and disk, and what is missing."""
    from bench.study.costs import fit_costs, total

    if as_json:
        typer.echo(json.dumps(_facts(study, groups), indent=2))
        return
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for group in groups:
        row = rows.setdefault(
            (group.part.name, group.dataset), {"fits": 0, "done": 0, "costs": [], "missing": []}
        )
        row["fits"] += len(group.jobs)
        row["done"] += len(group.jobs) - len(group.open)
        row["costs"] += fit_costs(group.open, group.request.preset)
        row["missing"] += group.labels.values() if group.missing else []
    shown = []
    for (part, dataset), row in rows.items():
        cost = total(row["costs"])
        shown.append(
            {
                "part": part,
                "dataset": dataset,
                "fits": f"{row['fits']:,}",
                "done": f"{row['done']:,}",
                "hours": _hours(cost),
                "GPU": _number(cost["gpu_gb"], "GB"),
                "disk": _number(cost["disk_gb"], "GB"),
                "missing": str(len(dict.fromkeys(row["missing"])) or "-"),
            }
        )
    with redirect_stdout(sys.stderr if err else sys.stdout):
        print_rows(f"{study.title}", shown)
    unknown = sum(total(row["costs"])["unknown"] for row in rows.values())
    notes = []
    if unknown:
        notes.append(
            "hours: open fits on one device, estimated from stored folds or from the rates in"
            f" docs/performance.md; unknown for {unknown:,} fits (+, ?)"
        )
    hints = study.executor
    needs = [f"a GPU of {hints.gpu_memory_gb:g} GB"] if hints.gpu_memory_gb else []
    needs += [f"{hints.hours:g} hours"] if hints.hours else []
    notes += [f"the largest fits need {' and '.join(needs)}"] if needs else []
    notes += [hints.note] if hints.note else []
    for note in notes:
        typer.echo(note, err=err)
    if not err:
        _print_missing(groups)


def _print_missing(groups: Sequence[StudyGroup]) -> None:
    """What is missing, a line a dataset and reason."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for group in groups:
        if group.missing:
            parts = found.setdefault((group.dataset, group.missing), {})
            parts.setdefault(group.part.name, []).extend(group.labels.values())
    for (dataset, reason), parts in found.items():
        rows = [f"{part} ({', '.join(dict.fromkeys(told))})" for part, told in parts.items()]
        where = "" if reason.startswith(dataset) else f"{dataset}: "
        complain(f"{where}{reason}; missing rows: {', '.join(rows)}")


def _hours(cost: dict[str, Any]) -> str:
    more = "+" if cost["unknown"] else ""
    hours = cost["hours"]
    if not hours:
        return "?" if more else "0"
    return (f"{hours:.1f}" if hours >= 0.05 else f"{hours:.2f}") + more


def _number(value: float, unit: str) -> str:
    if math.isnan(value) or not value:
        return "-"
    return f"{value:.1f} {unit}" if value >= 0.05 else f"< 0.1 {unit}"

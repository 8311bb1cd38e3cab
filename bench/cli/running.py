"""Commands that make results: run, import-weights."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.apps import app
from bench.cli.executor_options import (
    JobsOption,
)
from bench.cli.help_pages import VARIANTS, examples
from bench.cli.option_groups import (
    ExecutorGroup,
    RequestGroup,
    VariantsGroup,
    WorkersGroup,
    with_groups,
)
from bench.cli.options import (
    FAILED,
    CompileOption,
    DatasetOption,
    JsonOption,
    MethodOption,
    names,
)
from bench.cli.terminal import complain, terminal_width
from bench.errors import BenchError
from bench.execute.executors.options import ExecutorOptions
from bench.execute.request import Request

if TYPE_CHECKING:
    from bench.execute.run import RunResult


@app.command(
    "run",
    epilog=examples(
        "bench run --method mean,ridge --dataset demo --preset quick",
        "bench run --method ./mine.py --dataset her2st --folds 0,1 --jobs 2",
        "bench run --method ridge --dataset her2st --encoder resnet50-layer3,uni --seeds 0-4",
    ),
)
@with_groups
def run_command(
    ctx: typer.Context,
    *,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME|FILE",
            help="Name from 'bench list datasets', or path of a card; required unless --config"
            " names one.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAMES",
            help="Names from 'bench list methods' or paths such as ./mine.py, comma-separated;"
            " required unless --config names them.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML file with options and settings, such as best.yaml of 'bench tune'.",
            show_default=False,
        ),
    ] = None,
    variants: VariantsGroup,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="One run per image encoder, for methods that have one; names from 'bench list"
            " encoders', comma-separated.",
            show_default="the encoder of each method",
            rich_help_panel=VARIANTS,
        ),
    ] = None,
    no_random: Annotated[
        bool,
        typer.Option(
            "--no-random",
            help="With --encoder: leave out the controls with random encoder weights.",
            rich_help_panel=VARIANTS,
        ),
    ] = not Request.random_encoders,
    jobs: JobsOption = ExecutorOptions.jobs,
    workers: WorkersGroup,
    group: RequestGroup,
    compile_encoders: CompileOption = Request.compile,
    where: ExecutorGroup,
    force: Annotated[
        bool, typer.Option("--force", help="Fit and score finished folds again.")
    ] = Request.force,
    no_oracles: Annotated[
        bool, typer.Option("--no-oracles", help="Leave out the depth oracle.")
    ] = not Request.oracles,
    plan: Annotated[bool, typer.Option("--plan", help="Print the planned fits and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run methods on a dataset; finished folds are kept.

    The same call resumes an interrupted run: finished folds are not computed again.
    """
    from bench.cli.config_file import combine, read_config, require_method_and_dataset

    values = group.values(
        method,
        dataset,
        encoders=names(encoder),
        random_encoders=not no_random,
        force=force,
        oracles=not no_oracles,
        compile=compile_encoders,
        **variants.values(),
    )
    typed = _typed(ctx)
    if config is not None:
        values = combine(values, typed, read_config(config), config)
    if values["seeds"] and "seed" in typed:
        raise BenchError("--seed is one seed and --seeds are several; give one of the options")
    require_method_and_dataset(values)
    options = where.options(jobs=jobs, **workers.values())
    _run_members(values, group.tracking, as_json, options, plan_only=plan)


@app.command("import-weights")
@with_groups
def import_weights_command(
    method: MethodOption,
    dataset: DatasetOption,
    checkpoint: Annotated[
        Path,
        typer.Option(
            "--checkpoint",
            "-c",
            metavar="FILE|FOLDER",
            help="Checkpoint as saved by the code of the authors; for several folds a pattern such"
            " as 'best_{fold}.pt', or a folder.",
        ),
    ],
    group: RequestGroup,
    as_json: JsonOption = False,
) -> None:
    """Store a released checkpoint as a run, without training.

    Test sections are predicted and scored as in 'bench run'. No code in the file is executed. A
    checkpoint belongs to one training set: with --folds, name the fold whose test sections it has
    not seen, or give the checkpoints of all folds.
    """
    values = group.values(method, dataset, checkpoint=checkpoint, oracles=False)
    _run(Request(**values), group.tracking, as_json)


def _typed(ctx: typer.Context) -> set[str]:
    """Fields of a request whose options were typed."""
    field_names = {"method": "methods", "compile_encoders": "compile"}
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return {
        field_names.get(name, name)
        for name, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    }


def fetch_missing_files(dataset: str, data_root: Path | None) -> None:
    """Fetch a dataset that is not on this machine, with a progress bar."""
    from bench.data.folders import is_here
    from bench.registry import dataset_card

    card = dataset_card(dataset)
    if data_root is not None or is_here(card, None):
        return
    from bench.cli.download_display import DownloadDisplay
    from bench.fetch.fetch import fetch_if_absent

    with DownloadDisplay() as bar:
        fetch_if_absent(card, data_root, bar)


def _run_members(
    values: dict[str, Any],
    tracking: str | None,
    as_json: bool,
    where: ExecutorOptions,
    *,
    plan_only: bool,
) -> None:
    """Run on every dataset that the named one stands for, also after one of them has failed."""
    from bench.registry import members

    failed = []
    requests = [
        Request(**{**values, "dataset": name, "data_root": root})
        for name, root in members(values["dataset"], values.get("data_root"))
    ]
    for request in requests:
        try:
            if plan_only:
                _print_plan(request, as_json)
            else:
                _run(request, tracking, as_json, where)
        except BenchError as error:
            if len(requests) == 1:
                raise
            complain(f"{request.dataset}: {error}")
            failed.append(request.dataset)
        except typer.Exit:
            if len(requests) == 1:
                raise
            failed.append(request.dataset)
    if failed:
        raise typer.Exit(FAILED)


def _fetch_missing(request: Request) -> None:
    if request.test_dataset:
        from bench.execute.transfers import check_cards
        from bench.registry import dataset_card

        check_cards(dataset_card(request.dataset), dataset_card(request.test_dataset))
        fetch_missing_files(request.test_dataset, request.test_data_root)
    fetch_missing_files(request.dataset, request.data_root)


def _print_plan(request: Request, as_json: bool) -> None:
    from bench.cli.plan_display import render_plan
    from bench.execute.plan import make_plan

    _fetch_missing(request)
    with redirect_stdout(sys.stderr):
        text = render_plan(make_plan(request), as_json=as_json, width=terminal_width())
    typer.echo(text, nl=False)


def _run(
    request: Request,
    tracking: str | None,
    as_json: bool,
    where: ExecutorOptions | None = None,
) -> None:
    from bench.cli.run_display import RunDisplay
    from bench.execute.executors.choose import make_executor
    from bench.execute.run import run_request
    from bench.tracking.upload import Tracker, tracking_uri

    executor = make_executor(where or ExecutorOptions())
    _fetch_missing(request)
    # Libraries and methods may print; standard output is for the table alone.
    with redirect_stdout(sys.stderr), RunDisplay() as watcher:
        uri = tracking_uri(tracking, request.results)
        data = (request.dataset, request.data_root)
        tracker = Tracker(uri, request.results, watcher.warn, *data)
        outcome = run_request(request, watcher=watcher, executor=executor, uploads=tracker)
    _print_outcome(outcome, as_json)
    if outcome.failures:
        raise typer.Exit(FAILED)


def _print_outcome(outcome: RunResult, as_json: bool) -> None:
    from bench.report.headings import comparison_heading
    from bench.report.tables import render

    if as_json:
        content = json.loads(render(outcome.runs, "json"))
        content["failures"] = [vars(failure) for failure in outcome.failures]
        content["left_out"] = outcome.plan.left_out
        typer.echo(json.dumps(content, indent=2))
        return
    plan = outcome.plan
    title = comparison_heading(
        plan.dataset.card.name, plan.protocol.name, [run.facts for run in plan.runs]
    )
    title += f", folds {plan.folds.hash[:12]}"
    typer.echo("\n" + render(outcome.runs, "text", title=title, width=terminal_width()))
    for failure in outcome.failures:
        run = next(r for r in outcome.plan.runs if r.row == failure.label)
        where = run.folder.fold(failure.fold).path / "failure.txt"
        complain(f"{failure.label}, fold {failure.fold} failed: {failure.reason} (see {where})")

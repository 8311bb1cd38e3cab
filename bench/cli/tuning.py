"""``bench tune``: settings searched on the training sections of each fold."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.apps import app
from bench.cli.executor_options import (
    JobsOption,
)
from bench.cli.help_pages import SEARCH, examples
from bench.cli.option_groups import (
    ExecutorGroup,
    RequestGroup,
    with_groups,
)
from bench.cli.options import (
    FAILED,
    DatasetOption,
    JsonOption,
    read_seconds,
)
from bench.cli.running import fetch_missing_files
from bench.cli.terminal import complain, terminal_width
from bench.execute.request import Request
from bench.tune.choices import Budget, ObjectiveScore, Pruner, Sampler
from bench.tune.request import TuneRequest

if TYPE_CHECKING:
    from bench.execute.run import RunResult


@app.command(
    "tune",
    epilog=examples(
        "bench tune --method ridge --dataset demo --trials 10",
        "bench tune --method mclstexp,mlp --dataset her2st --timeout 2h --budget time",
        "bench tune -m mlp -d her2st --storage postgresql+psycopg://user@host/name",
    ),
)
@with_groups
def tune_command(
    *,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            metavar="NAMES",
            help="Names from 'bench list methods' or paths such as ./mine.py, comma-separated.",
        ),
    ],
    dataset: DatasetOption,
    trials: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Trials of each method on each fold.",
            rich_help_panel=SEARCH,
        ),
    ] = TuneRequest.trials,
    timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Start no more trials of a method on a fold after this time, such as 2h.",
            show_default=False,
            rich_help_panel=SEARCH,
        ),
    ] = None,
    budget: Annotated[
        Budget,
        typer.Option(
            help="Equal for all methods: number of trials and time, or time only.",
            rich_help_panel=SEARCH,
        ),
    ] = Budget.equal,
    objective: Annotated[
        ObjectiveScore,
        typer.Option(
            metavar="NAME",
            help=f"Score to optimise on the inner folds: {', '.join(ObjectiveScore)}.",
            rich_help_panel=SEARCH,
        ),
    ] = TuneRequest.objective,
    inner_folds: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=2,
            help="Maximum number of inner folds, which are made of the training patients.",
            rich_help_panel=SEARCH,
        ),
    ] = TuneRequest.inner_folds,
    sampler: Annotated[
        Sampler,
        typer.Option(help="Algorithm that suggests settings.", rich_help_panel=SEARCH),
    ] = TuneRequest.sampler,
    pruner: Annotated[
        Pruner,
        typer.Option(help="Algorithm that stops poor trials early.", rich_help_panel=SEARCH),
    ] = TuneRequest.pruner,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="SQLAlchemy URL of the database of the trials.",
            show_default="a journal file in the results folder",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    jobs: JobsOption = TuneRequest.jobs,
    group: RequestGroup,
    where: ExecutorGroup,
    as_json: JsonOption = False,
) -> None:
    """Tune settings on the training sections of each fold.

    The best settings of a fold are then scored once on its test sections. The same call resumes
    an interrupted search, and parallel calls share the work. A setting given with --set is not
    tuned.
    """
    from bench.cli.tuning_display import TuningDisplay
    from bench.execute.executors.choose import make_executor
    from bench.tracking.upload import Tracker, tracking_uri
    from bench.tune.request import equal_budget
    from bench.tune.runners import make_study_runner
    from bench.tune.tuning import refit, tune

    executor = make_executor(where.options())
    fetch_missing_files(dataset, group.data_root)
    request = equal_budget(
        TuneRequest(
            run=Request(**group.values(method, dataset)),
            trials=trials,
            timeout=read_seconds(timeout) if timeout else None,
            jobs=jobs,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            objective=objective,
            inner_folds=inner_folds,
        ),
        budget,
    )
    with redirect_stdout(sys.stderr), TuningDisplay() as watcher:
        tuned, failed = tune(request, watcher, make_study_runner(executor, watcher))
        outcomes = []
        if tuned:
            uri = tracking_uri(group.tracking, group.results)
            tracker = Tracker(uri, group.results, watcher.warn, dataset, group.data_root)
            outcomes = refit(request, tuned, uploads=tracker, watcher=watcher, executor=executor)
    if outcomes:
        _print_tuned(outcomes, as_json)
    for one in failed:
        complain(f"{one.method}, fold {one.fold}: no trial gave a value; {'; '.join(one.reasons)}")
    if failed or any(outcome.failures for outcome in outcomes):
        raise typer.Exit(FAILED)


def _print_tuned(outcomes: list[RunResult], as_json: bool) -> None:
    from bench.report.pairs import tuned_pairs, write_pairs
    from bench.report.tables import render

    runs = [run for outcome in outcomes for run in outcome.runs]
    plan = outcomes[0].plan
    pairs = tuned_pairs(runs)
    title = f"{plan.dataset.card.name}, protocol {plan.protocol.name}, folds {plan.folds.hash[:12]}"
    if as_json:
        content = json.loads(render(runs, "json"))
        content["pairs"] = json.loads(write_pairs(pairs, "json"))["rows"]
        typer.echo(json.dumps(content, indent=2))
        return
    typer.echo(f"\n{render(runs, 'text', title=title, width=terminal_width())}")
    typer.echo(
        write_pairs(
            pairs,
            "text",
            title="Tuned against default, on the test sections",
            width=terminal_width(),
        )
    )

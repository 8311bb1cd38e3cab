"""A request from beginning to end: plan, jobs, tracking, table."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from bench.errors import BenchError
from bench.execute.executors.base import Executor, Failure, Watcher
from bench.execute.executors.local import LocalExecutor
from bench.execute.plan import Job, Plan, make_plan
from bench.execute.request import Request
from bench.report.tables import score_table
from bench.store import StoredRun, stored_run
from bench.tracking.upload import Tracker, tracking_uri


@dataclass(frozen=True)
class Outcome:
    """What came of a request.

    Attributes
    ----------
    plan
        What was to be done.
    runs
        The runs as they lie on disk now.
    failures
        Folds whose method failed.
    """

    plan: Plan
    runs: list[StoredRun]
    failures: list[Failure]

    @property
    def table(self) -> pd.DataFrame:
        """One row a run; see :func:`bench.report.tables.score_table`."""
        return score_table(self.runs)


def carry_out(
    request: Request,
    *,
    tracking: str | None = None,
    watcher: Watcher | None = None,
    executor: Executor | None = None,
) -> Outcome:
    """Do what a request asks for; finished folds are kept unless it says otherwise.

    Parameters
    ----------
    request
        Methods, dataset, protocol and the rest.
    tracking
        MLflow tracking URI, ``none``, or None for the default; see
        :func:`bench.tracking.upload.tracking_uri`.
    watcher
        Told what happens.
    executor
        Where jobs run; in this process where None.

    Raises
    ------
    BenchError
        The request cannot be met.
    """
    watcher = watcher or Watcher()
    executor = executor or LocalExecutor()
    plan = make_plan(request, elsewhere=executor.elsewhere)
    watcher.planned(plan)
    tracker = Tracker(tracking_uri(tracking, request.results), request.results, watcher.warn)

    def upload(job: Job) -> None:
        stored = stored_run(job.run)
        if stored is not None:
            tracker.upload(stored)

    try:
        for run in plan.runs:
            run.folder.describe(run.facts)
        failures = executor.run(plan, watcher, upload)
    except BenchError:
        for run in plan.runs:
            run.folder.discard_if_empty()
        raise
    runs = [stored for run in plan.runs if (stored := stored_run(run.folder)) is not None]
    for stored in runs:
        # Folds of earlier calls that no store has seen, as after a server that was down.
        tracker.upload(stored)
    tracker.finish()
    return Outcome(plan, runs, failures)

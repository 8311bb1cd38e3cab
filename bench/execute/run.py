"""A request from beginning to end: plan, jobs, stored results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bench.errors import BenchError
from bench.execute.executors.base import Executor, Failure, JobWatcher
from bench.execute.executors.local import LocalExecutor
from bench.execute.plan import Job, Plan, make_plan
from bench.execute.request import Request
from bench.store import StoredRun, stored_run


class Uploads(Protocol):
    """Receives stored runs, as a tracking server does; the results on disk come first."""

    def upload(self, run: StoredRun) -> None:
        """Upload what a run has now."""

    def finish(self) -> None:
        """Upload what is still missing."""


@dataclass(frozen=True)
class RunResult:
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


def run_request(
    request: Request,
    *,
    watcher: JobWatcher | None = None,
    executor: Executor | None = None,
    uploads: Uploads | None = None,
) -> RunResult:
    """Do what a request asks for; finished folds are kept unless it says otherwise.

    Parameters
    ----------
    request
        Methods, dataset, protocol and the rest.
    watcher
        Told what happens.
    executor
        Where jobs run; on this machine, one at a time, where None.
    uploads
        Given each run whenever one of its folds has been stored.

    Raises
    ------
    BenchError
        The request cannot be met.
    """
    watcher = watcher or JobWatcher()
    executor = executor or LocalExecutor()
    plan = make_plan(request, elsewhere=executor.elsewhere)
    watcher.planned(plan)

    def upload(job: Job) -> None:
        stored = stored_run(job.run)
        if stored is not None and uploads is not None:
            uploads.upload(stored)

    try:
        for planned in plan.runs:
            planned.folder.describe(planned.facts)
        failures = executor.run(plan, watcher, upload)
    except BenchError:
        for planned in plan.runs:
            planned.folder.discard_if_empty()
        raise
    runs = [stored for planned in plan.runs if (stored := stored_run(planned.folder)) is not None]
    if uploads is not None:
        for stored in runs:
            # Folds of earlier calls that no store has seen, as after a server that was down.
            uploads.upload(stored)
        uploads.finish()
    return RunResult(plan, runs, failures)

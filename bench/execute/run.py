"""Execution of a request: plan, jobs, stored results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from bench.errors import BenchError
from bench.execute.executors.base import Executor, Failure, JobWatcher
from bench.execute.executors.local import LocalExecutor, run_jobs
from bench.execute.plan import Job, Plan, make_plan
from bench.execute.request import Request
from bench.stored_runs import StoredRun, stored_run


class Uploads(Protocol):
    """Receives stored runs, as a tracking server does; the results on disk come first."""

    def upload(self, run: StoredRun) -> None:
        """Upload the finished folds of a run."""

    def finish(self) -> None:
        """Upload everything still missing."""


@dataclass(frozen=True)
class RunResult:
    """Result of a request.

    Attributes
    ----------
    plan
        Plan that was executed.
    runs
        Runs as stored on disk after the call.
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
    """Execute a request; finished folds are kept unless ``force`` is set.

    Parameters
    ----------
    request
        Methods, dataset, protocol and the rest.
    watcher
        Receives events.
    executor
        Executor of the jobs; None: this machine, one job at a time.
    uploads
        Receives a run each time one of its folds has been stored.

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
        fitted, averaged = _without_ensembles(plan)
        failures = executor.run(fitted, watcher, upload) if fitted.runs else []
        if averaged:
            failures += run_jobs(averaged, watcher, force=request.force, stored=upload)
    except BenchError:
        for planned in plan.runs:
            planned.folder.discard_if_empty()
        raise
    runs = [stored for planned in plan.runs if (stored := stored_run(planned.folder)) is not None]
    if uploads is not None:
        for stored in runs:
            # Folds of earlier calls that were not uploaded, for example as the server was down.
            uploads.upload(stored)
        uploads.finish()
    return RunResult(plan, runs, failures)


def _without_ensembles(plan: Plan) -> tuple[Plan, list[Job]]:
    """The plan without ensembles; and their jobs, which follow here when the others are done."""
    fitted = tuple(planned for planned in plan.runs if not planned.method_spec.members)
    return replace(plan, runs=fitted), [job for job in plan.jobs() if job.members]

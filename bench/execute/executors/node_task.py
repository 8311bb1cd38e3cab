"""Task of a cluster: make the plan again, run its jobs, report."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.data.folders import is_here
from bench.errors import BenchError, DataError
from bench.execute.executors.base import Failure, JobWatcher
from bench.execute.executors.local import run_jobs
from bench.execute.executors.submission import Assignment, Submission, TaskReport
from bench.execute.plan import Job, make_plan
from bench.execute.request import Request
from bench.execute.request_json import request_from_json
from bench.fetch.fetch import fetch_if_absent
from bench.registry import dataset_card

_NOWHERE = "http://127.0.0.1:9"


class Reporter(JobWatcher):
    """Records the outcome of a task's assignments for the caller."""

    def __init__(self, submission: Submission, task: int, watcher: JobWatcher) -> None:
        self._submission = submission
        self._task = task
        self._watcher = watcher
        self._report = TaskReport()

    def begin(self, name: str) -> None:
        """Record that an assignment has started."""
        self._write(begun=(*self._report.begun, name))

    def keep(self, name: str) -> None:
        """Record that the result of an assignment exists."""
        self._write(kept=(*self._report.kept, name))

    def refuse(self, reason: str) -> None:
        """Record that the task cannot run."""
        self._write(refused=f"{reason} (on {platform.node()})")

    def job_started(self, job: Job) -> None:
        """A job begins."""
        self.begin(_name(job))
        self._watcher.job_started(job)

    def job_progress(self, job: Job, done: int, total: int, note: str) -> None:
        """Pass on the progress of a fit."""
        self._watcher.job_progress(job, done, total, note)

    def job_skipped(self, job: Job) -> None:
        """Record that the job's result already exists."""
        self.keep(_name(job))
        self._watcher.job_skipped(job)

    def job_rescored(self, job: Job) -> None:
        """Record that the job's stored predictions have been scored again."""
        self._watcher.job_rescored(job)

    def job_done(self, job: Job) -> None:
        """Record that the job's result has been stored."""
        self._watcher.job_done(job)

    def job_failed(self, job: Job, reason: str) -> None:
        """The method failed."""
        self._write(failed={**self._report.failed, _name(job): reason})
        self._watcher.job_failed(job, reason)

    def warn(self, message: str) -> None:
        """Pass on a warning to the user."""
        self._watcher.warn(message)

    def _write(self, **changes: Any) -> None:
        self._report = replace(self._report, **changes)
        self._submission.write_report(self._task, self._report)


def run_assignments(
    submission: Submission, task: int, content: Any, watcher: JobWatcher
) -> list[Failure]:
    """Run the jobs of one task in this process.

    Parameters
    ----------
    submission, task
        Submission, and number of the task.
    content
        The request as JSON.
    watcher
        Receives events, for the task's log.

    Returns
    -------
    list of Failure
        Jobs whose method failed.

    Raises
    ------
    BenchError
        The data are not on this node, or this installation makes a different plan; the caller
        is told by the task's report.
    """
    reporter = Reporter(submission, task, watcher)
    assignments = submission.bundles[task]
    try:
        request = request_from_json(content)
        prepare_data(request.dataset, request.data_root, fetch=submission.fetch)
        if request.test_dataset:
            prepare_data(request.test_dataset, request.test_data_root, fetch=submission.fetch)
        jobs = _planned(request, assignments)
        failures: list[Failure] = []
        forced = [_to_force(of, job) for of, job in zip(assignments, jobs, strict=True)]
        for force, group in groupby(zip(forced, jobs, strict=True), lambda pair: pair[0]):
            failures += run_jobs([job for _, job in group], reporter, force=force)
    except BenchError as error:
        reporter.refuse(str(error))
        raise
    return failures


def prepare_data(dataset: str, data_root: Path | None, *, fetch: bool) -> None:
    """Check that a dataset is on this node; fetch it if allowed.

    Raises
    ------
    DataError
        The dataset is missing or could not be fetched.
    """
    card = dataset_card(dataset)
    if fetch:
        fetch_if_absent(card, data_root)
        return
    forbid_downloads()
    if not is_here(card, data_root):
        raise DataError(
            f"{card.name}: no data folder on this node; put the data where all nodes see them"
            " (--data-root or SPOTBENCH_DATA)"
        )


def forbid_downloads() -> None:
    """Make every download of this process and its children fail immediately.

    Nodes without internet would otherwise wait for the time limit of each attempt.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("http_proxy", "https_proxy"):
        os.environ[name] = os.environ[name.upper()] = _NOWHERE
    for name in ("no_proxy", "NO_PROXY"):
        os.environ.pop(name, None)


def _planned(request: Request, assignments: Sequence[Assignment]) -> list[Job]:
    """Jobs assigned to a task, from the plan made on this node."""
    plan = make_plan(request)
    jobs = {(job.row, job.fold): job for job in plan.jobs()}
    planned = []
    for of in assignments:
        job = jobs.get((of.label, of.fold))
        if job is None or job.run.key != of.key:
            raise BenchError(
                f"{of.label}, fold {of.fold}: code, packages or data have changed since the"
                " submission; submit again"
            )
        planned.append(job)
    for run in plan.runs:
        # The caller has described the run too, and removes the description if Slurm refuses it.
        if any(job.run == run.folder for job in planned):
            run.folder.describe(run.facts)
    return planned


def _to_force(of: Assignment, job: Job) -> bool:
    """Whether a valid result still has to be replaced."""
    return of.force and job.folder.is_done() and job.folder.version() == of.replaces


def _name(job: Job) -> str:
    return Assignment(job.row, job.fold, job.run.key).name

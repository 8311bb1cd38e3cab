"""Jobs as tasks of Slurm job arrays.

The caller plans, submits, follows and uploads; a task makes the plan again and runs its jobs; see
:mod:`bench.execute.executors.node_task`. They meet in the results folder alone, which the nodes
share: a fold with a result there is done, regardless of the state of the queue.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from bench.errors import DetachedError
from bench.execute.executors import slurm_client
from bench.execute.executors.base import Failure, JobWatcher
from bench.execute.executors.profile import Profile, read_profile
from bench.execute.executors.submission import Assignment, TaskReport, submitting
from bench.execute.executors.task_pool import Task, TaskPool
from bench.execute.executors.weights import fetch_weights
from bench.execute.inputs import InputsOfFolds
from bench.execute.job import job_keys
from bench.execute.plan import Job, Plan
from bench.execute.request import Request
from bench.execute.request_json import request_to_json

_LOG_LINES = 20


class SlurmExecutor:
    """Submits the jobs of a plan to a Slurm cluster and waits for their results.

    Parameters
    ----------
    profile
        Resources and options of the tasks.
    submit_only
        Return as soon as the jobs are submitted, with :class:`DetachedError`.

    Raises
    ------
    SlurmError
        This machine cannot submit to the profile's partition.
    """

    elsewhere: ClassVar[bool] = True

    def __init__(self, profile: Profile | None = None, *, submit_only: bool = False) -> None:
        self.profile = profile or Profile()
        self.submit_only = submit_only
        slurm_client.check_cluster(self.profile.partition)
        largest = slurm_client.largest_array()
        self.array_limit = min(self.profile.array_limit or largest, largest)

    def run(self, plan: Plan, watcher: JobWatcher, stored: Callable[[Job], None]) -> list[Failure]:
        """Run all jobs of a plan that are not done; see :class:`Executor`.

        Raises
        ------
        DetachedError
            The jobs were submitted and are not waited for.
        BenchError
            Nothing could be submitted.
        """
        following = _Following(self, plan, watcher, stored)
        with detached_by_interrupt(following.describe):
            with submitting(plan.request.results):
                following.begin()
            if self.submit_only and following.open:
                raise DetachedError(following.describe())
            while following.step():
                time.sleep(self.profile.poll_seconds)
        return following.failures


def from_profile(path: Path | None, *, submit_only: bool = False) -> SlurmExecutor:
    """Executor for the cluster of a profile file; None: the cluster's defaults.

    Raises
    ------
    BenchError
        The profile is wrong, or this machine cannot submit to its partition.
    """
    return SlurmExecutor(None if path is None else read_profile(path), submit_only=submit_only)


def node_request(request: Request, jobs: Sequence[Job]) -> Request:
    """Request for the tasks, with which they plan the same runs.

    The precision of image encoders is part of a run's key, and is what it is on this machine; the
    nodes may be other machines. Repetition is requested for each fold separately.

    Parameters
    ----------
    request
        Request of the user.
    jobs
        Jobs planned for it on this machine.
    """
    precision = {job.precision for job in jobs if job.method_spec.needs_image}
    if request.precision == "auto":
        request = replace(request, precision=precision.pop() if precision else "float32")
    return replace(request, force=False, results=request.results.absolute())


@contextlib.contextmanager
def detached_by_interrupt(describe: Callable[[], str]) -> Iterator[None]:
    """Convert an interruption of this process into a message that the jobs continue.

    Raises
    ------
    DetachedError
        The block was interrupted.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise DetachedError(describe(), interrupted=True) from None


def bundled(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """Divide jobs among tasks, fold by fold, so that jobs on the same data run together.

    Parameters
    ----------
    jobs
        Jobs in any order.
    size
        Jobs per task; a task may have more if a method's permuted-image control would otherwise
        be separated from the fit it reuses.
    """
    leaders = {(job.run.path, job.fold): [job] for job in jobs if job.twin is None}
    groups = list(leaders.values())
    for job in jobs:
        if job.twin is not None:
            group = leaders.get((job.twin.path, job.fold))
            if group is None:
                groups.append([job])
            else:
                group.append(job)
    bundles: list[list[Job]] = []
    for group in sorted(groups, key=lambda group: (group[0].fold, group[0].limit)):
        if bundles and len(bundles[-1]) + len(group) <= size:
            bundles[-1] += group
        else:
            bundles.append(list(group))
    return bundles


class _Following:
    """One plan in progress on the cluster."""

    def __init__(
        self,
        executor: SlurmExecutor,
        plan: Plan,
        watcher: JobWatcher,
        stored: Callable[[Job], None],
    ) -> None:
        self.open: dict[Assignment, Job] = {}
        self.failures: list[Failure] = []
        self._profile = executor.profile
        self._plan = plan
        self._watcher = watcher
        self._stored = stored
        self._pool = TaskPool(
            executor.profile,
            executor.array_limit,
            plan.request.results,
            {"run": request_to_json(node_request(plan.request, plan.jobs()))},
            watcher.warn,
        )
        self._unsubmitted: list[list[Assignment]] = []
        self._lost: Counter[Assignment] = Counter()
        self._begun: set[Assignment] = set()

    def begin(self) -> None:
        """Adopt the jobs in the queue, and submit missing ones.

        Raises
        ------
        BenchError
            Nothing could be submitted, and nothing is in the queue.
        """
        jobs = {(job.run.key, job.fold): job for job in self._plan.jobs()}
        self._pool.adopt(lambda of: (of.key, of.fold) in jobs)
        for task in self._pool.tasks:
            for of in task.assignments:
                job = jobs.get((of.key, of.fold))
                if job is not None and not _finished(job, of):
                    self.open[of] = jobs.pop((of.key, of.fold))
        missing = self._missing(list(jobs.values()))
        if not self._profile.fetch:
            fetch_weights(missing)
        force = self._plan.request.force
        for bundle in bundled(missing, self._profile.bundle):
            assignments = {_assignment(job, force=force): job for job in bundle}
            self.open |= assignments
            self._unsubmitted.append(list(assignments))
        if self._unsubmitted and self._pool.submit(self._unsubmitted, first=True):
            self._unsubmitted = []

    def _missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Jobs to run; the others are reported as done."""
        if self._plan.request.force:
            return list(jobs)
        missing = []
        with contextlib.closing(InputsOfFolds()) as inputs:
            for job in jobs:
                if _is_valid(job, inputs):
                    self._watcher.job_skipped(job)
                else:
                    missing.append(job)
        return missing

    def step(self) -> bool:
        """Check results and queue once; True if there are jobs to wait for."""
        self._take_results()
        for task in self._pool.tasks:
            self._take_report(task)
        if self.open:
            self._pool.look()
            self._replace_lost()
        return bool(self.open)

    def describe(self) -> str:
        """Description in one line of the tasks in the queue."""
        return self._pool.describe(f"{len(self.open)} folds", self.open.__contains__)

    def _take_results(self) -> None:
        for of, job in list(self.open.items()):
            if _finished(job, of):
                self._finish(of)

    def _finish(self, of: Assignment) -> None:
        job = self.open.pop(of)
        self._stored(job)
        self._watcher.job_done(job)

    def _take_report(self, task: Task) -> TaskReport:
        """Report the folds that a task has started, and those that failed."""
        report = task.report()
        for of in self._left_of(task):
            if of.name in report.begun and of not in self._begun:
                self._begun.add(of)
                self._watcher.job_started(self.open[of])
            if of.name in report.kept and self.open[of].folder.is_done():
                self._finish(of)
            elif of.name in report.failed:
                self._fail(of, report.failed[of.name])
            elif report.refused:
                self._fail(of, report.refused, task)
        return report

    def _replace_lost(self) -> None:
        """Submit again the folds that ended without a result, a limited number of times."""
        gone = self._pool.take_gone()
        if gone:
            self._take_results()
        for task in gone:
            report = self._take_report(task)
            left = self._left_of(task)
            # A task that got through some of its folds does not count against those it had no
            # time to begin.
            progress = len(left) < len(task.assignments)
            self._lost.update(of for of in left if of.name in report.begun or not progress)
            again = [of for of in left if self._lost[of] <= self._profile.retries]
            for of in left:
                if of not in again:
                    times = self._lost[of]
                    self._fail(
                        of,
                        f"its task ended without a result {times} times, the last one: {task.end}",
                        task,
                    )
            if again:
                self._watcher.warn(
                    f"{task.log}: ended without the results of {len(again)} folds ({task.end});"
                    " they are submitted again"
                )
                self._unsubmitted.append(again)
        if self._unsubmitted and self._pool.submit(self._unsubmitted):
            self._unsubmitted = []

    def _left_of(self, task: Task) -> list[Assignment]:
        return [of for of in task.assignments if of in self.open]

    def _fail(self, of: Assignment, reason: str, task: Task | None = None) -> None:
        """Give up a fold; if its folder has no traceback, write the known reason into it."""
        job = self.open.pop(of)
        if task is not None:
            reason = f"{reason}; log: {task.log}"
            with contextlib.suppress(OSError):
                job.folder.fail(reason, _end_of(task.log))
        self.failures.append(Failure(job.row, job.fold, reason))
        self._watcher.job_failed(job, reason)


def _assignment(job: Job, *, force: bool) -> Assignment:
    """Assignment of a job to a task."""
    replaces = job.folder.version() if job.folder.is_done() else None
    return Assignment(job.row, job.fold, job.run.key, replaces, force)


def _is_valid(job: Job, inputs: InputsOfFolds) -> bool:
    """Whether a result with the current fit key and score key exists."""
    state = job.folder.state()
    # Fit keys are computed last: they may require reading the data of the fold.
    return state.done and (state.fit_key, state.score_key) == job_keys(job, inputs.of(job.source))


def _finished(job: Job, of: Assignment) -> bool:
    """Whether a result newer than the submission of the job exists."""
    try:
        return job.folder.version() != of.replaces and job.folder.is_done()
    except OSError:  # no manifest yet
        return False


def _end_of(log: Path) -> str:
    """Last lines of a task's output."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return (
            "The task left no output. Do the nodes see the results folder under the same path,"
            " and may they write there?\n"
        )
    return "\n".join(lines[-_LOG_LINES:]) + "\n"

"""Studies whose workers are tasks of a Slurm cluster.

Each task is one worker of one study. The workers of a study share its trials through its storage,
as processes on one machine do, so the caller only keeps enough workers running.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from bench.errors import BenchError, DataError, DetachedError
from bench.execute.executors.base import JobWatcher
from bench.execute.executors.node_task import Reporter, prepare_data
from bench.execute.executors.slurm import SlurmExecutor, detached_by_interrupt, node_request
from bench.execute.executors.submission import Assignment, Submission, submitting
from bench.execute.executors.task_pool import TaskPool
from bench.execute.executors.weights import fetch_weights
from bench.execute.request_json import request_from_json, request_to_json
from bench.files import one_line
from bench.tune.request import TuneRequest
from bench.tune.study import StudySpec, is_over, open_study, search_space, work
from bench.tune.tuning import plan_studies

if TYPE_CHECKING:
    from optuna import Study


class SlurmStudies:
    """Runs studies on a Slurm cluster, ``--jobs`` tasks each, all studies at once.

    Parameters
    ----------
    executor
        Executor of the cluster, with its profile.
    watcher
        Receives warnings.
    """

    elsewhere: ClassVar[bool] = True

    def __init__(self, executor: SlurmExecutor, watcher: JobWatcher) -> None:
        self._executor = executor
        self._watcher = watcher
        self._open: dict[str, StudySpec] = {}
        self._lost: Counter[str] = Counter()
        self._unsubmitted: list[list[Assignment]] = []

    def begin(self, specs: Sequence[StudySpec]) -> None:
        """Submit missing workers.

        Raises
        ------
        DetachedError
            The workers were submitted and are not waited for.
        BenchError
            Nothing could be submitted.
        """
        self._open = {spec.name: spec for spec in specs if not _over(spec)}
        if not self._open:
            return
        if not self._executor.profile.fetch:
            fetch_weights(spec.job for spec in specs)
        request = specs[0].request
        run = node_request(request.run, [spec.job for spec in specs])
        self._pool = TaskPool(
            self._executor.profile,
            self._executor.array_limit,
            run.results,
            {"tune": tune_request_to_json(replace(request, run=run))},
            self._watcher.warn,
        )
        with detached_by_interrupt(self._describe), submitting(run.results):
            self._pool.adopt(lambda of: of.key in self._open)
            alive = self._alive()
            for spec in self._open.values():
                self._unsubmitted += [[_assignment(spec)]] * (request.jobs - alive[spec.name])
            if self._unsubmitted and self._pool.submit(self._unsubmitted, first=True):
                self._unsubmitted = []
        if self._executor.submit_only:
            raise DetachedError(self._describe())

    def run(self, spec: StudySpec, told: Callable[[Study], None]) -> None:
        """Wait until all planned trials of a study are settled.

        Raises
        ------
        DetachedError
            The user interrupted this process; the workers continue.
        BenchError
            Its workers ended too often with trials left.
        """
        study = open_study(spec, runs=False)
        searched = search_space(spec)
        with detached_by_interrupt(self._describe):
            while True:
                told(study)
                if is_over(spec, study.get_trials(deepcopy=False), searched):
                    self._open.pop(spec.name, None)
                    return
                self._tend()
                time.sleep(self._executor.profile.poll_seconds)

    def _tend(self) -> None:
        """Replace workers that ended with trials left, a limited number of times."""
        self._pool.look()
        last = {}
        for task in self._pool.take_gone():
            (of,) = task.assignments
            spec = self._open.get(of.key)
            if spec is None or _over(spec):
                continue
            refused = task.report().refused
            self._lost[of.key] += 1
            last[of.key] = f"{refused or task.end}; log: {task.log}"
            if not refused and self._lost[of.key] <= self._executor.profile.retries:
                self._watcher.warn(
                    f"{task.log}: a worker ended with trials left ({task.end}); it is submitted"
                    " again"
                )
                self._unsubmitted.append([of])
        if self._unsubmitted and self._pool.submit(self._unsubmitted):
            self._unsubmitted = []
        alive = self._alive()
        alive.update(of.key for (of,) in self._unsubmitted)
        for key, reason in last.items():
            if not alive[key]:
                spec = self._open[key]
                raise BenchError(
                    f"study of {spec.kind.name}, fold {spec.job.fold}: every worker ended with"
                    f" trials left, the last one: {reason}; call again to continue"
                )

    def _alive(self) -> Counter[str]:
        """Number of workers by study."""
        return Counter(of.key for task in self._pool.tasks for of in task.assignments)

    def _describe(self) -> str:
        return self._pool.describe(f"{len(self._open)} studies", lambda of: of.key in self._open)


def run_worker(
    submission: Submission, task: int, content: Mapping[str, Any], watcher: JobWatcher
) -> None:
    """Work on one study in this process until it is over; called by a task.

    Raises
    ------
    BenchError
        The data are not on this node, this installation makes a different study, or an error is
        not caused by the settings; the caller reads it in the report of the task.
    """
    reporter = Reporter(submission, task, watcher)
    (of,) = submission.bundles[task]
    try:
        request = tune_request_from_json(content)
        prepare_data(request.run.dataset, request.run.data_root, fetch=submission.fetch)
        specs = {spec.name: spec for spec in plan_studies(request)}
        if of.key not in specs:
            raise BenchError(
                f"{of.label}, fold {of.fold}: code, packages or data have changed since the"
                " submission; submit again"
            )
        reporter.begin(of.name)
        work(specs[of.key])
    except BenchError as error:
        reporter.refuse(str(error))
        raise


def tune_request_to_json(request: TuneRequest) -> dict[str, Any]:
    """JSON object of a request to tune."""
    plain = {of.name: getattr(request, of.name) for of in fields(TuneRequest)}
    return {**plain, "run": request_to_json(request.run)}


def tune_request_from_json(content: Mapping[str, Any]) -> TuneRequest:
    """Request from the object that :func:`tune_request_to_json` made.

    Raises
    ------
    DataError
        Not such an object, for example written by another version of the package.
    """
    try:
        values = {**content, "run": request_from_json(content["run"])}
        TuneRequest(**values)  # checks the names of fields, but does not parse enumerations
        return TypeAdapter(TuneRequest).validate_python(values)
    except (KeyError, TypeError, ValidationError) as error:
        reason = one_line(error)
        raise DataError(f"not a request of this version of the package: {reason}") from error


def _assignment(spec: StudySpec) -> Assignment:
    return Assignment(str(spec.job.method_spec.label), spec.job.fold, spec.name)


def _over(spec: StudySpec) -> bool:
    trials = open_study(spec, runs=False).get_trials(deepcopy=False)
    return is_over(spec, trials, search_space(spec))

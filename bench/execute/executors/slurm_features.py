"""Features of frozen encoders as tasks of Slurm job arrays.

A task computes some sections and keeps them in the cache folder, which the nodes share with the
caller; the features of a section are done as soon as the caller sees them there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.cache import cache_folder
from bench.data.dataset import open_dataset
from bench.errors import BenchError, DataError, DetachedError
from bench.execute.executors.base import JobWatcher
from bench.execute.executors.node_task import Reporter, prepare_data
from bench.execute.executors.slurm import SlurmExecutor, detached_by_interrupt
from bench.execute.executors.submission import Assignment, Submission, submitting
from bench.execute.executors.task_pool import Task, TaskPool
from bench.execute.features import FeaturePart, FeatureRequest, FeatureWork
from bench.files import one_line
from bench.registry import dataset_card

KIND = "features"
"""Name of such requests in a submission."""


@dataclass
class SlurmFeatures:
    """Computes features on a Slurm cluster; see :class:`bench.execute.features.FeatureRunner`.

    Attributes
    ----------
    executor
        Executor of the cluster, with its profile.
    dataset, data_root
        Name or card of the dataset, and its data folder, as the user gave them.
    results
        Folder that the submissions are written to.
    warn
        Receives warnings.
    """

    executor: SlurmExecutor
    dataset: str
    data_root: Path | None
    results: Path
    warn: Callable[[str], None]
    _open: dict[Assignment, FeaturePart] = field(default_factory=dict, init=False)
    _lost: Counter[Assignment] = field(default_factory=Counter, init=False)
    _unsubmitted: list[list[Assignment]] = field(default_factory=list, init=False)

    def run(
        self,
        work: FeatureWork,
        parts: Sequence[FeaturePart],
        done: Callable[[FeaturePart, float | None], None],
    ) -> None:
        """Submit the parts and wait for them.

        Raises
        ------
        DetachedError
            The parts were submitted and are not waited for.
        BenchError
            Nothing could be submitted, or a part could not be computed.
        """
        self._open = {_assignment(work, part): part for part in parts}
        profile = self.executor.profile
        content = {
            **asdict(work.request),
            "dataset": self.dataset,
            "data_root": None if self.data_root is None else str(self.data_root.absolute()),
        }
        pool = TaskPool(
            profile, self.executor.array_limit, self.results.absolute(), {KIND: content}, self.warn
        )

        def describe() -> str:
            return pool.describe(f"features of {len(self._open)} sections", self._open.__contains__)

        with detached_by_interrupt(describe):
            with submitting(self.results):
                pool.adopt(self._open.__contains__)
                queued = {of for task in pool.tasks for of in task.assignments}
                left = [of for of in self._open if of not in queued]
                size = profile.bundle
                self._unsubmitted = [left[i : i + size] for i in range(0, len(left), size)]
                if self._unsubmitted and pool.submit(self._unsubmitted, first=True):
                    self._unsubmitted = []
            if self.executor.submit_only:
                raise DetachedError(describe())
            while True:
                self._take(work, done)
                if not self._open:
                    return
                pool.look()
                gone = pool.take_gone()
                if gone:
                    self._take(work, done)
                for task in gone:
                    self._end(task)
                if self._unsubmitted and pool.submit(self._unsubmitted):
                    self._unsubmitted = []
                time.sleep(profile.poll_seconds)

    def _take(self, work: FeatureWork, done: Callable[[FeaturePart, float | None], None]) -> None:
        """Take note of the parts that have arrived."""
        for of, part in list(self._open.items()):
            if work.stored(part) is not None:
                del self._open[of]
                done(part, None)

    def _end(self, task: Task) -> None:
        """Submit again what a task left behind, a limited number of times."""
        report = task.report()
        left = [of for of in task.assignments if of in self._open]
        if not left:
            return
        if report.refused:
            raise BenchError(f"{report.refused}; log: {task.log}")
        unseen = [of.name for of in left if of.name in report.kept]
        if unseen:
            raise DataError(
                f"{unseen[0]}: computed, but not in {cache_folder()}; set SPOTBENCH_CACHE to a"
                " folder that this machine and all nodes share"
            )
        progress = len(left) < len(task.assignments)
        self._lost.update(of for of in left if of.name in report.begun or not progress)
        if max(self._lost[of] for of in left) > self.executor.profile.retries:
            raise BenchError(
                f"{left[0].label}: its task ended without features too often, the last time:"
                f" {task.end}; log: {task.log}"
            )
        self.warn(
            f"{task.log}: ended without the features of {len(left)} sections ({task.end}); they"
            " are submitted again"
        )
        self._unsubmitted.append(left)


def run_feature_task(
    submission: Submission, task: int, content: Mapping[str, Any], watcher: JobWatcher
) -> None:
    """Compute the sections of one task in this process.

    Parameters
    ----------
    submission, task
        Submission, and number of the task.
    content
        The request as JSON.
    watcher
        Receives warnings.

    Raises
    ------
    BenchError
        The data or weights are not on this node, or this installation would compute other
        features; the caller reads it in the report of the task.
    """
    reporter = Reporter(submission, task, watcher)
    try:
        work = _work(content, fetch=submission.fetch)
        for of in submission.bundles[task]:
            part = FeaturePart(of.label, work.sections[of.fold])
            if work.key(part) != of.key:
                raise BenchError(
                    f"{of.label}, {part.section}: code, packages, weights or data have changed"
                    " since the submission; submit again"
                )
            reporter.begin(of.name)
            work.compute(part)
            reporter.keep(of.name)
    except BenchError as error:
        reporter.refuse(str(error))
        raise


def _work(content: Mapping[str, Any], *, fetch: bool) -> FeatureWork:
    values = dict(content)
    try:
        dataset, root = str(values.pop("dataset")), values.pop("data_root")
        request = FeatureRequest(**{**values, "encoders": tuple(values["encoders"])})
    except (KeyError, TypeError) as error:
        raise DataError(
            f"not a request of this version of the package: {one_line(error)}"
        ) from error
    data_root = None if root is None else Path(root)
    prepare_data(dataset, data_root, fetch=fetch)
    return FeatureWork(open_dataset(dataset_card(dataset), data_root, images=True), request)


def _assignment(work: FeatureWork, part: FeaturePart) -> Assignment:
    return Assignment(part.encoder, work.sections.index(part.section), work.key(part))

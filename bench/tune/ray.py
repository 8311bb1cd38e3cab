"""Studies whose workers are tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from bench.errors import BenchError
from bench.execute.executors.ray import RayExecutor
from bench.execute.plan import Job
from bench.tune.study import StudySpec, is_over, open_study, search_space, work

if TYPE_CHECKING:
    from optuna import Study


class RayStudies:
    """Runs studies one after another on a Ray cluster, ``--jobs`` tasks each.

    Parameters
    ----------
    executor
        The cluster.
    """

    elsewhere: ClassVar[bool] = True

    def __init__(self, executor: RayExecutor) -> None:
        self._executor = executor

    def begin(self, specs: Sequence[StudySpec]) -> None:
        """Check that all nodes can reach the storage of the trials, and fetch weights.

        Raises
        ------
        BenchError
            A node cannot reach the storage, or weights cannot be fetched.
        """
        for spec in specs:
            self._executor.check_storage(spec.request.storage)
        self._executor.prepare([spec.job for spec in specs])

    def run(self, spec: StudySpec, told: Callable[[Study], None]) -> None:
        """Run one study to its end.

        Raises
        ------
        BenchError
            An error not caused by the settings, or every worker was lost.
        """
        study = open_study(spec, runs=False)
        searched = search_space(spec)
        if is_over(spec, study.get_trials(deepcopy=False), searched):
            return
        job = self._executor.placed(spec.job, spec.request.run.device)
        lost = self._executor.run_workers(
            job, partial(work_on_node, spec), spec.request.jobs, lambda: told(study)
        )
        if not is_over(spec, study.get_trials(deepcopy=False), searched):
            raise BenchError(
                f"study of {spec.kind.name}, fold {spec.job.fold}: every worker ended"
                f" ({lost or 'without a reason'}) with trials left; call again to continue"
            )


def work_on_node(spec: StudySpec, job: Job) -> None:
    """Work on a study in a task.

    Parameters
    ----------
    spec
        Study with the caller's paths.
    job
        Its job with the paths of this node.
    """
    folder = job.run.results / spec.folder.relative_to(spec.job.run.results)
    fixed = {name: job.method_spec.config[name] for name in spec.fixed}
    work(replace(spec, job=job, fixed=fixed, folder=folder))

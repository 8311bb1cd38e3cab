"""Where the workers of studies run, from where jobs run."""

from __future__ import annotations

from bench.execute.executors.base import Executor, JobWatcher
from bench.execute.executors.ray import RayExecutor
from bench.execute.executors.slurm import SlurmExecutor
from bench.tune.ray import RayStudies
from bench.tune.slurm import SlurmStudies
from bench.tune.tuning import LocalStudies, StudyRunner


def make_study_runner(executor: Executor, watcher: JobWatcher) -> StudyRunner:
    """Runner of studies that belongs to an executor of jobs; on this machine where none does."""
    if isinstance(executor, SlurmExecutor):
        return SlurmStudies(executor, watcher)
    if isinstance(executor, RayExecutor):
        return RayStudies(executor)
    return LocalStudies()

"""Choice of the study runner that belongs to an executor of jobs."""

from __future__ import annotations

from bench.execute.executors.base import Executor, JobWatcher
from bench.execute.executors.ray import RayExecutor
from bench.execute.executors.slurm import SlurmExecutor
from bench.tune.ray import RayStudies
from bench.tune.slurm import SlurmStudies
from bench.tune.tuning import LocalStudies, StudyRunner


def make_study_runner(executor: Executor, watcher: JobWatcher) -> StudyRunner:
    """Study runner that belongs to an executor of jobs; by default on this machine."""
    if isinstance(executor, SlurmExecutor):
        return SlurmStudies(executor, watcher)
    if isinstance(executor, RayExecutor):
        return RayStudies(executor)
    return LocalStudies()

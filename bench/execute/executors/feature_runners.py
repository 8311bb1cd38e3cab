"""Choice of the runner of features that belongs to an executor of jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.execute.executors.base import Executor
from bench.execute.executors.ray import RayExecutor
from bench.execute.executors.ray_features import RayFeatures
from bench.execute.executors.slurm import SlurmExecutor
from bench.execute.executors.slurm_features import SlurmFeatures
from bench.execute.features import FeatureRunner, LocalFeatures


def make_feature_runner(
    executor: Executor,
    dataset: str,
    data_root: Path | None,
    results: Path,
    warn: Callable[[str], None],
) -> FeatureRunner:
    """Runner of features that belongs to an executor of jobs; by default this process.

    Parameters
    ----------
    executor
        Executor of jobs.
    dataset, data_root
        Name or card of the dataset, and its data folder, as the user gave them.
    results
        Folder that submissions to a cluster are written to.
    warn
        Receives warnings.
    """
    if isinstance(executor, SlurmExecutor):
        return SlurmFeatures(executor, dataset, data_root, results, warn)
    if isinstance(executor, RayExecutor):
        return RayFeatures(executor, warn)
    return LocalFeatures()

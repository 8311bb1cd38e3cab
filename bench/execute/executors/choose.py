"""Choice of the executor; only the libraries of the chosen one are imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.errors import UnknownNameError
from bench.execute.executors.base import Executor
from bench.execute.executors.options import LOCAL, RAY, SLURM, ExecutorOptions


def make_executor(options: ExecutorOptions) -> Executor:
    """Make an executor and check that it can be used; nothing is written or started.

    Raises
    ------
    BenchError
        Unknown executor, an option of another one, or a cluster that cannot be used.
    """
    if options.executor not in _MAKERS:
        raise UnknownNameError("executor", options.executor, _MAKERS)
    options.check_belonging()
    return _MAKERS[options.executor](options)


def _local(options: ExecutorOptions) -> Executor:
    from bench.execute.executors.local import ISOLATIONS, LocalExecutor

    if options.isolation not in ISOLATIONS:
        raise UnknownNameError("isolation", options.isolation, ISOLATIONS)

    return LocalExecutor(
        jobs=options.jobs,
        gpus=options.gpus,
        time_limit=options.time_limit,
        isolation=ISOLATIONS[options.isolation],
    )


def _ray(options: ExecutorOptions) -> Executor:
    from bench.execute.executors.ray_cluster import check_cluster, check_installed, cluster_address

    check_installed()
    address = cluster_address(options.ray_address)
    check_cluster(address)
    from bench.execute.executors.ray import RayExecutor

    return RayExecutor(address, options.shared_disk, options.ray_cpus, options.ray_gpus)


def _slurm(options: ExecutorOptions) -> Executor:
    from bench.execute.executors.slurm import from_profile

    return from_profile(options.profile, submit_only=options.submit_only)


_MAKERS: Mapping[str, Callable[[ExecutorOptions], Executor]] = {
    LOCAL: _local,
    SLURM: _slurm,
    RAY: _ray,
}

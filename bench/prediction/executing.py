"""Choice of the machine that predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.execute.executors.options import RAY, SLURM, ExecutorOptions
from bench.prediction.finished_stripes import FinishedStripes
from bench.prediction.predicting import PredictionRequest, predict_image
from bench.prediction.watching import PredictionWatcher

if TYPE_CHECKING:
    from anndata import AnnData


def predict_with(
    options: ExecutorOptions,
    request: PredictionRequest,
    watcher: PredictionWatcher,
    finished: FinishedStripes,
) -> AnnData:
    """Predict an image in this process or on a cluster; the values are the same.

    Parameters
    ----------
    options
        Where it is predicted.
    request, watcher, finished
        See :func:`bench.prediction.predicting.predict_image`.

    Raises
    ------
    DetachedError
        The prediction was submitted and is not waited for.
    BenchError
        As :func:`bench.prediction.predicting.predict_image`; or the cluster cannot be used.
    """
    from bench.execute.executors.choose import make_executor

    executor = make_executor(options)
    if options.executor == SLURM:
        from bench.execute.executors.slurm import SlurmExecutor
        from bench.prediction.on_slurm import predict_on_slurm

        assert isinstance(executor, SlurmExecutor)
        return predict_on_slurm(request, executor, watcher, finished)
    if options.executor == RAY:
        from bench.execute.executors.ray import RayExecutor
        from bench.prediction.on_ray import predict_on_ray

        assert isinstance(executor, RayExecutor)
        return predict_on_ray(request, executor, watcher)
    return predict_image(request, watcher, finished)

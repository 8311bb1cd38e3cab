"""A prediction as a task of Slurm; the node writes it into the results folder, which is shared."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, DetachedError
from bench.execute.executors.base import JobWatcher
from bench.execute.executors.node_task import Reporter, forbid_downloads
from bench.execute.executors.slurm import SlurmExecutor, detached_by_interrupt
from bench.execute.executors.submission import (
    Assignment,
    Submission,
    submissions_folder,
    submitting,
)
from bench.execute.executors.task_pool import Task, TaskPool
from bench.prediction.elsewhere import (
    absolute_request,
    check_before_sending,
    check_versions,
    packed_bundle,
    read_result,
    request_from_json,
    request_key,
    request_to_json,
    versions,
)
from bench.prediction.finished_stripes import FinishedStripes
from bench.prediction.outputs import write_prediction
from bench.prediction.predicting import PredictionRequest, predict_image
from bench.prediction.watching import PredictionWatcher

if TYPE_CHECKING:
    from anndata import AnnData

KIND = "predict"
"""Name of such requests in a submission."""

_LABEL = "prediction"


def predict_on_slurm(
    request: PredictionRequest,
    executor: SlurmExecutor,
    watcher: PredictionWatcher,
    finished: FinishedStripes,
) -> AnnData:
    """Submit a prediction and wait for it; the same call follows one that is queued.

    Parameters
    ----------
    request
        The prediction; its files must lie where the nodes see them.
    executor
        The cluster.
    watcher
        Told what happens.
    finished
        Told of the files to be removed once the prediction is written.

    Raises
    ------
    DetachedError
        It was submitted and is not waited for.
    BenchError
        Nothing could be submitted, or the prediction failed.
    """
    check_before_sending(request)
    sent = absolute_request(request)
    folder = submissions_folder(sent.results) / "predictions"
    key = request_key(sent)
    if sent.bundle is not None and sent.bundle.is_dir():
        # Fetched into a folder of this machine, by a name that the key has.
        sent = replace(sent, bundle=packed_bundle(sent.bundle, folder / f"{key[:32]}.spotbench"))
        finished.remove_later(folder / f"{key[:32]}.spotbench")
    result = folder / f"{key[:32]}.h5ad"
    content = {
        "request": request_to_json(sent),
        "result": str(result),
        "versions": versions(),
    }
    _submitted(executor, sent.results, Assignment(_LABEL, 0, key), content, result, watcher)
    finished.remove_later(result)
    return read_result(result, request)


def _submitted(
    executor: SlurmExecutor,
    results: Path,
    assignment: Assignment,
    content: Mapping[str, Any],
    result: Path,
    watcher: PredictionWatcher,
) -> None:
    """Have the result made, by a task of this call or of an earlier one."""
    profile = executor.profile
    pool = TaskPool(profile, executor.array_limit, results, {KIND: content}, watcher.say)

    def wanted(of: Assignment) -> bool:
        return of == assignment

    def describe() -> str:
        return pool.describe("the prediction", wanted)

    lost, submit = 0, False
    with detached_by_interrupt(describe):
        with submitting(results):
            if result.is_file():
                return
            pool.adopt(wanted)
            if not pool.tasks:
                pool.submit([[assignment]], first=True)
        if executor.submit_only:
            raise DetachedError(describe())
        watcher.say(describe())
        while not result.is_file():
            pool.look()
            for task in pool.take_gone():
                if result.is_file():
                    return
                lost += 1
                _check_end(task, assignment, lost, profile.retries)
                watcher.say(f"{task.log}: ended without a prediction ({task.end}); submitted again")
                submit = True
            if submit and pool.submit([[assignment]]):
                submit = False
            time.sleep(profile.poll_seconds)


def _check_end(task: Task, assignment: Assignment, lost: int, retries: int) -> None:
    report = task.report()
    if report.refused:
        raise BenchError(f"{report.refused}; log: {task.log}")
    if lost > retries:
        raise BenchError(
            f"{assignment.label}: its task ended without a result too often, the last time:"
            f" {task.end}; log: {task.log}"
        )


class _Log(PredictionWatcher):
    """Writes what is said into the log of the task."""

    def __init__(self, watcher: JobWatcher) -> None:
        self._watcher = watcher

    def say(self, text: str) -> None:
        self._watcher.warn(text)


def run_prediction_task(
    submission: Submission, task: int, content: Mapping[str, Any], watcher: JobWatcher
) -> None:
    """Predict in this process, and write the result.

    Parameters
    ----------
    submission, task
        Submission, and number of the task.
    content
        Request, place of the result and versions of the caller, as JSON.
    watcher
        Receives what is said.

    Raises
    ------
    BenchError
        The prediction failed, or this installation is another one; the caller reads it in the
        report of the task.
    """
    reporter = Reporter(submission, task, watcher)
    (assignment,) = submission.bundles[task]
    try:
        if not submission.fetch:
            forbid_downloads()
        check_versions(content["versions"])
        request = request_from_json(content["request"])
        reporter.begin(assignment.name)
        finished = FinishedStripes()
        adata = predict_image(request, _Log(watcher), finished)
        write_prediction(adata, Path(content["result"]))
        finished.forget()
        reporter.keep(assignment.name)
    except BenchError as error:
        reporter.refuse(str(error))
        raise

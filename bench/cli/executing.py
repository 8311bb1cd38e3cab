"""The command that the tasks of a cluster call."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.apps import app
from bench.cli.options import FAILED
from bench.errors import BenchError


@app.command("execute", hidden=True)
def execute_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the submission.")],
    task: Annotated[int, typer.Option(metavar="N", min=0, help="Number of the task.")],
) -> None:
    """Run one task of a submission; called by the job scripts of a cluster."""
    from bench.cli.run_display import RunDisplay
    from bench.execute.executors.submission import read_submission

    submission = read_submission(folder)
    if task >= len(submission.bundles):
        raise BenchError(f"{folder}: no task {task}; it has {len(submission.bundles)}")
    (kind, content), *_ = submission.request().items()
    with redirect_stdout(sys.stderr), RunDisplay() as watcher:
        if kind == "tune":
            from bench.tune.slurm import run_worker

            run_worker(submission, task, content, watcher)
            return
        if kind == "features":
            from bench.execute.executors.slurm_features import run_feature_task

            run_feature_task(submission, task, content, watcher)
            return
        if kind == "predict":
            from bench.prediction.on_slurm import run_prediction_task

            run_prediction_task(submission, task, content, watcher)
            return
        from bench.execute.executors.node_task import run_assignments

        failures = run_assignments(submission, task, content, watcher)
    if failures:
        raise typer.Exit(FAILED)

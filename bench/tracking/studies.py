"""Studies of a tuned run as nested MLflow runs, one run per trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.records import read_record
from bench.stored_runs import StoredRun
from bench.tracking.batches import log_values

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "spotbench.key"

_FILES = ("best.yaml", "trials.csv", "history.png", "importance.png", "parallel-coordinates.png")
_PARAM = "param."


def study_folders(run: StoredRun) -> dict[int, Path]:
    """Existing folders of the studies that gave a run's settings, by fold."""
    named = run.facts.get("studies")
    root = (run.folder.results / "tuning").resolve()
    folders = {}
    for fold, name in named.items() if isinstance(named, dict) else ():
        folder = (run.folder.results / str(name)).resolve()
        if str(fold).isdigit() and folder.is_relative_to(root) and folder.is_dir():
            folders[int(fold)] = folder
    return folders


def upload_studies(
    client: MlflowClient, experiment: str, parent: str, run: StoredRun, check: Callable[[], None]
) -> None:
    """Upload the missing parts of the studies of a tuned run.

    Scores of trials are on inner folds; they are called ``inner_...``, so that no table mixes them
    with scores of test sections.

    Parameters
    ----------
    client, experiment, parent
        Store, and the MLflow run that the studies belong to.
    run
        The tuned run.
    check
        Raises when the upload has taken too long.
    """
    for fold, folder in sorted(study_folders(run).items()):
        facts = read_record(folder / "study.json")
        name = f"tuning of {run.facts['method']} fold {fold}"
        tags = {"level": "study", "method": run.facts["label"], "fold": str(fold)}
        study = _run(client, experiment, parent, f"{run.folder.key}-study-{fold}", name, tags)
        if study.info.status == "FINISHED":
            continue
        study_id = str(study.info.run_id)
        score = f"inner_{facts.get('objective', 'score')}"
        _log(client, study_id, _settings(facts), {score: facts.get("value")})
        _log(client, study_id, {}, {f"{score}_default": facts.get("default_value")})
        for path in (folder / name for name in _FILES):
            if path.is_file():
                client.log_artifact(study_id, str(path))
        check()
        for row in _trials(folder):
            _upload_trial(client, experiment, study_id, score, row)
            check()
        client.set_terminated(study_id, "FINISHED")


def _trials(folder: Path) -> list[dict[str, Any]]:
    table = pd.read_csv(folder / "trials.csv", float_precision="round_trip")
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _upload_trial(
    client: MlflowClient, experiment: str, study: str, score: str, row: dict[str, Any]
) -> None:
    tags = {"level": "trial", "state": str(row["state"])}
    if isinstance(row.get("reason"), str):
        tags["reason"] = row["reason"]
    key = f"{study}-{row['slot']}"
    trial = _run(client, experiment, study, key, f"trial {row['slot']}", tags)
    if trial.info.status != "RUNNING":
        return
    params = {k.removeprefix(_PARAM): v for k, v in row.items() if k.startswith(_PARAM)}
    shown = {name: value for name, value in params.items() if pd.notna(value)}
    metrics = {score: row["value"], "seconds": row.get("seconds")}
    _log(client, str(trial.info.run_id), shown, metrics)
    ended = {"complete": "FINISHED", "pruned": "KILLED"}.get(str(row["state"]), "FAILED")
    client.set_terminated(str(trial.info.run_id), ended)


def _settings(facts: dict[str, Any]) -> dict[str, Any]:
    """Settings in ``study.json``."""
    budget = facts.get("budget")
    settings = dict(budget) if isinstance(budget, dict) else {}
    return settings | {k: facts.get(k) for k in ("sampler", "pruner", "inner_folds", "objective")}


def _run(
    client: MlflowClient, experiment: str, parent: str, key: str, name: str, tags: dict[str, str]
) -> Any:
    """MLflow run of a key; created if there is none."""
    runs = client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
    if runs:
        return runs[0]
    of_mlflow = {"mlflow.parentRunId": parent, "mlflow.source.name": "bench tune"}
    return client.create_run(experiment, tags={KEY: key, **of_mlflow, **tags}, run_name=name)


def _log(
    client: MlflowClient, run_id: str, params: dict[str, Any], metrics: dict[str, Any]
) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    log_values(client, run_id, params=params)
    client.log_batch(
        run_id,
        metrics=[Metric(n, float(v), now, 0) for n, v in metrics.items() if pd.notna(v)],
    )

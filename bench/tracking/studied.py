"""Marks of studies in MLflow: a tag of each of its runs, and a saved view of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.errors import BenchError
from bench.store import RunFolder
from bench.tracking import pages
from bench.tracking.pages import public
from bench.tracking.records import RECORD, known_uploads, store_name
from bench.tracking.upload import NONE, SHORT_WAITS


def study_tag(study: str) -> str:
    """Tag of the runs of a study; its value is the run's label there."""
    return f"study.{study}"


def tag_study(
    uri: str,
    results: Path,
    study: str,
    labels: Mapping[RunFolder, str],
    warn: Callable[[str], None],
) -> None:
    """Tag the uploaded runs of a study, and save a view of them in each of their experiments.

    Parameters
    ----------
    uri, results
        As in :class:`bench.tracking.upload.Tracker`.
    study
        Name of the study.
    labels
        Labels of its runs; those that were not uploaded are passed over.
    warn
        Receives one line when the store cannot be reached.
    """
    if uri == NONE:
        return
    name = store_name(uri, results)
    known = {folder: known_uploads(folder.path / RECORD, name) for folder in labels}
    uploaded = {folder: of for folder, of in known.items() if of.get("run_id")}
    if not uploaded:
        return
    try:
        _tag(uri, study, {str(of["run_id"]): labels[folder] for folder, of in uploaded.items()})
        _save_views(uri, study, {str(of["experiment_id"]) for of in uploaded.values()})
    except BenchError:
        raise
    except Exception as error:  # noqa: BLE001 - any failure of a tracking store costs a warning, not a run
        warn(f"tracking at {public(uri)} did not take the tags of study {study} ({error})")


def _tag(uri: str, study: str, labels: Mapping[str, str]) -> None:
    for key, value in SHORT_WAITS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    for run_id, label in labels.items():
        client.set_tag(run_id, study_tag(study), label)


def _save_views(uri: str, study: str, experiments: set[str]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    search = f"tags.level = 'run' AND tags.`{study_tag(study)}` != ''"
    for experiment in sorted(experiments):
        tag = pages.view_tag(study_tag(study))
        if tag not in client.get_experiment(experiment).tags:
            created = int(client.get_experiment(experiment).creation_time)
            view = pages.saved_view(created, f"Study {study}", search)
            client.set_experiment_tag(experiment, tag, view)

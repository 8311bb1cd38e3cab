"""One tracking store, and what a results folder has given to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import SoftFileLease

from bench.claims import check_held, claim
from bench.data.card import DatasetCard
from bench.errors import BenchError, StoreError
from bench.records import write_record
from bench.registry import dataset_card, find_datasets
from bench.stored_runs import StoredRun
from bench.tracking import pages
from bench.tracking.database import (
    ARTIFACTS,
    DATABASE,
    database_path,
    follow_folder,
    has_uploads,
    is_ready,
    make_ready,
)
from bench.tracking.importing import import_mlflow
from bench.tracking.logged_bundle import DatasetOnHand
from bench.tracking.records import (
    RECORD,
    claimed_upload,
    known_uploads,
    local_file,
    read_uploads,
    store_name,
    upload_state,
    with_uploaded,
)
from bench.tracking.run_upload import KEY, VERSION, RunUpload, created_at
from bench.tracking.studies import upload_studies

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_CLAIM_OF_DESCRIPTION = ".describe"
_SECONDS_OF_DESCRIPTION = 30.0
"""Seconds to wait for another process that describes the experiment."""


def open_database(results: Path, uri: str) -> str | None:
    """Prepare the database of a results folder, and update its locations if the folder was moved.

    Parameters
    ----------
    results
        Results folder.
    uri
        Tracking URI; other stores than the folder's database are left unchanged.

    Returns
    -------
    str
        Message on a database that could not be used, None without such a message.

    Raises
    ------
    StoreError
        It cannot be read or written, or was made by a later MLflow.
    """
    if store_name(uri, results) != DATABASE:
        return None
    path, artifacts = database_path(results), results / ARTIFACTS
    told = make_ready(path, artifacts)
    follow_folder(path, artifacts)
    return told


class TrackingStore:
    """One tracking store, and what this results folder has given to it.

    Parameters
    ----------
    uri, results
        As in :class:`Tracker`.
    settings
        MLflow's environment variables for timeouts of a server; the user's take precedence.
    fold_seconds
        Maximum seconds for the upload of a fold, None without limit.
    told
        Receives a line about a database that could not be used.
    data
        Dataset of the runs, where it is not the one of its name.
    """

    def __init__(
        self,
        uri: str,
        results: Path,
        settings: Mapping[str, str],
        fold_seconds: float | None,
        told: Callable[[str], None],
        data: DatasetOnHand | None = None,
    ) -> None:
        self.uri = uri
        self._data = data
        self._on_hand_by_name: dict[str, DatasetOnHand] = {}
        self._results = results
        self._settings = settings
        self._fold_seconds = fold_seconds
        self._told = told
        self._name = store_name(uri, results)
        self._deadline = 0.0
        self._lease: SoftFileLease | None = None
        self._client: MlflowClient | None = None
        self._followed = False
        self._listed: dict[str, StoredRun] = {}

    def give(self, run: StoredRun, wait: float = 0.0, *, ask: bool = False) -> bool:
        """Upload a run and those of its folds that are missing in the store.

        Parameters
        ----------
        run
            The run.
        wait
            Seconds to wait for another process that is uploading it.
        ask
            Query the store whether it still has a run that was uploaded before.

        Returns
        -------
        bool
            Whether there was something to upload.

        Raises
        ------
        BusyError
            Another process is uploading it.
        Exception
            Any error of MLflow.
        """
        if not run.done or (not ask and self._was_given(run)):
            return False
        with claimed_upload(run, wait) as self._lease:
            # A database that was not ready, or that another process has filled, is asked again.
            client = self._connect()
            run = with_uploaded(run, self._known(run))
            if self._was_given(run) and not (ask and self._parent(client, run) is None):
                return False
            self._upload(run)
            return True

    def _was_given(self, run: StoredRun) -> bool:
        """Whether the current state of a run was uploaded, according to this folder's record."""
        known = self._known(run)
        state = upload_state(with_uploaded(run, known))
        return {**known, **state} == known and not self._is_lost(run, state)

    def _upload(self, run: StoredRun) -> None:
        client = self._connect()
        self._restart()
        given: dict[str, str] = {}
        parent = self._parent(client, run)
        if parent is not None and parent.info.lifecycle_stage == "active":
            experiment = str(parent.info.experiment_id)
            given = self._given_folds(run)
            upload = RunUpload(client, experiment, run, _card(run), self._check, self._on_hand(run))
        else:
            experiment = self._experiment(client, run)
            upload = RunUpload(client, experiment, run, _card(run), self._check, self._on_hand(run))
            parent = upload.find(run.folder.key)
        if parent is not None:
            run_id = str(parent.info.run_id)
        else:
            identity = {KEY: run.folder.key}
            run_id = upload.new_run(run.facts["label"], created_at(run), identity)
        state = upload_state(run)
        for index in run.done:
            if given.get(str(index)) != state["folds"][str(index)]:
                self._restart()
                upload.upload_fold(run_id, index)
        self._restart()
        upload_studies(client, experiment, run_id, run, self._check)
        upload.describe(run_id)
        upload.summarise(run_id, state["status"])
        self._describe_experiment(client, experiment, run)
        path = run.folder.path / RECORD
        record = read_uploads(path)
        record[self._name] = {"experiment_id": experiment, "run_id": run_id, **state}
        # Without a record the uploads are identified by their keys.
        with suppress(OSError):
            write_record(path, record)

    def _on_hand(self, run: StoredRun) -> DatasetOnHand | None:
        if self._data is not None and self._data.card.name == run.facts["dataset"]:
            return self._data
        card = _card(run)
        if card is None:
            return None
        return self._on_hand_by_name.setdefault(card.name, DatasetOnHand(card))

    def _known(self, run: StoredRun) -> dict[str, Any]:
        return known_uploads(run.folder.path / RECORD, self._name)

    def _given_folds(self, run: StoredRun) -> dict[str, str]:
        """Uploaded folds with their versions; verified in a local database."""
        given: dict[str, str] = self._known(run)["folds"]
        if not self._is_default:
            return given
        path = database_path(self._results)
        return {index: of for index, of in given.items() if has_uploads(path, VERSION, [of])}

    @property
    def _is_default(self) -> bool:
        return self._name == DATABASE

    def _is_lost(self, run: StoredRun, state: dict[str, Any]) -> bool:
        """Whether a local database lacks recorded uploads; cheap to check."""
        if not self._is_default:
            path = local_file(self.uri)
            return path is not None and not path.is_file()
        path = database_path(self._results)
        if not is_ready(path):
            return True
        if not self._followed:
            self._followed = True
            follow_folder(path, self._results / ARTIFACTS)
        versions = state["folds"].values()
        return not (
            has_uploads(path, KEY, [run.folder.key]) and has_uploads(path, VERSION, versions)
        )

    def _restart(self) -> None:
        self._deadline = time.monotonic() + (self._fold_seconds or float("inf"))

    def _check(self) -> None:
        if self._lease is not None:
            check_held(self._lease)
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"a fold was not uploaded within {self._fold_seconds:g} s")

    def _connect(self) -> MlflowClient:
        if self._client is None:
            import_mlflow(self._settings)
            told = open_database(self._results, self.uri)
            path = local_file(self.uri)
            if not self._is_default and path is not None and not path.is_file():
                told = make_ready(path, self._results / ARTIFACTS)
            if told is not None:
                self._told(told)
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self.uri)
        return self._client

    def _parent(self, client: MlflowClient, run: StoredRun) -> Run | None:
        """MLflow run created for a run, deleted or not; None if there is none."""
        from mlflow.exceptions import MlflowException

        run_id = self._known(run).get("run_id")
        if not isinstance(run_id, str):
            return None
        try:
            mlflow_run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise
            return None
        return mlflow_run if mlflow_run.data.tags.get(KEY) == run.folder.key else None

    def _experiment(self, client: MlflowClient, run: StoredRun) -> str:
        from mlflow.exceptions import MlflowException

        name = f"{run.facts['dataset']}-{run.facts['protocol']}"
        if (experiment := client.get_experiment_by_name(name)) is None:
            location = None
            if self.uri.startswith("sqlite:"):
                location = (self._results / ARTIFACTS / name).resolve().as_uri()
            tags = {"mlflow.experimentKind": "custom_model_development"}
            try:
                made = client.create_experiment(name, artifact_location=location, tags=tags)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                # Another process has just created it.
                experiment = client.get_experiment_by_name(name)
            else:
                return str(made)
        if experiment.lifecycle_stage == "deleted":
            raise BenchError(f"experiment {name} was deleted there; restore it or purge it")
        return str(experiment.experiment_id)

    def _describe_experiment(self, client: MlflowClient, experiment: str, run: StoredRun) -> None:
        # One process at a time, so that the last one to write has seen all runs.
        with ExitStack() as held:
            with suppress(StoreError):
                path = run.folder.path.parent / _CLAIM_OF_DESCRIPTION
                held.enter_context(claim(path, _SECONDS_OF_DESCRIPTION))
            self._write_description(client, experiment, run)

    def _write_description(self, client: MlflowClient, experiment: str, run: StoredRun) -> None:
        facts = run.facts
        beside = []
        for listed in pages.listed_runs(self._results, facts["dataset"], facts["protocol"]):
            versions = ",".join(listed.folder.fold(index).version() for index in listed.done)
            # The same object, so that the rows of the table are not computed again.
            beside.append(self._listed.setdefault(listed.folder.key + versions, listed))
        client.set_experiment_tag(experiment, pages.NOTE, pages.experiment_note(beside))
        if pages.VIEW_TAG not in client.get_experiment(experiment).tags:
            view = pages.saved_view(created_at(run))
            client.set_experiment_tag(experiment, pages.VIEW_TAG, view)


def _card(run: StoredRun) -> DatasetCard | None:
    """Card of a run's dataset; None for a user's card, which a run does not store."""
    name = run.facts["dataset"]
    return dataset_card(name) if name in find_datasets() else None

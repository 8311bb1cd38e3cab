"""MLflow: uploads what lies in the result store. Results on disk come first.

Everything here is a function of stored files, so that what could not be uploaded can be uploaded
later. mlflow is imported when the first upload is due, never for ``--tracking none``.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import SoftFileLease

from bench.claims import DURATION, check_held, claim
from bench.data.card import DatasetCard
from bench.errors import BenchError, StoreError
from bench.files import one_line
from bench.registry import dataset_card, find_datasets
from bench.report.figures import prediction_map
from bench.report.presets import shown_preset, used_values
from bench.report.tables import render
from bench.store import (
    FAILURE,
    MANIFEST,
    MODEL,
    FoldFolder,
    StoredRun,
    read_record,
    stored_names,
    stored_run,
    stored_runs,
    write_record,
)
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
from bench.tracking.model import DATA, save_model
from bench.tracking.pages import public
from bench.tracking.studies import upload_studies

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NONE = "none"
MODEL_LIMIT = 200 * 1024**2
"""Bytes of the largest fitted model that is uploaded."""

PATIENCE = 60.0
"""Seconds that the upload of a fold may take out of a run's time."""

WAIT = DURATION + 15
"""Seconds that a call waits at its end for other processes that upload the same runs."""

_RECORD = "tracking.json"
_CLAIM = ".upload"
_CLAIM_OF_DESCRIPTION = ".describe"
_SQLITE = "sqlite:///"
_MAPS = "maps/predictions by fold"
_KEY = "spotbench.key"
_VERSION = "spotbench.version"

# A server that is down must cost a run seconds; nobody waits on an upload of its own.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}


def tracking_uri(asked: str | None, results: Path) -> str:
    """Where to track: the option, ``MLFLOW_TRACKING_URI``, or SQLite in the results folder."""
    chosen = asked or os.environ.get("MLFLOW_TRACKING_URI")
    return chosen or f"{_SQLITE}{database_path(results)}"


def newest_page(results: Path, uri: str) -> str | None:
    """Path, under the server's address, of the page with the newest run that a store was given."""
    newest = ("", "")
    for path in (results / "runs").glob(f"*/*/*/{_RECORD}"):
        known = _known(path, _name(uri, results))
        created = str(read_record(path.with_name("run.json")).get("created", ""))
        newest = max(newest, (created, str(known.get("experiment_id", ""))))
    return pages.page(newest[1]) if newest[1] else None


class Tracker:
    """Uploads runs to one tracking store; a failure is told once and ends the uploading.

    Parameters
    ----------
    uri
        Tracking URI, or ``none``.
    results
        Results folder; artifacts of a local database go beside it.
    warn
        Told in one line when the store cannot be reached.
    """

    def __init__(self, uri: str, results: Path, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._off = uri == NONE
        self._store = _Store(uri, results, _IMPATIENT, PATIENCE, warn)
        self._left: dict[Path, StoredRun] = {}

    def upload(self, run: StoredRun) -> None:
        """Upload a run and those of its finished folds that the store does not have yet.

        A run that another process is uploading is left for :meth:`finish`. Never raises for a
        store that is down, slow or broken: the results are on disk.
        """
        if self._off or not run.done:
            return
        try:
            self._store.give(run)
        except _BusyError:
            self._left[run.folder.path] = run
        except Exception as error:  # noqa: BLE001 - any failure of a tracking store costs a warning, not a run
            self._fail(error)

    def finish(self) -> None:
        """Upload the runs that other processes were uploading; to be called once, at the end.

        Waits up to :data:`WAIT` seconds for those processes, and warns of the runs left out.
        """
        end = time.monotonic() + WAIT
        while self._left and not self._off:
            _, run = self._left.popitem()
            try:
                self._store.give(_newest(run), max(0.0, end - time.monotonic()))
            except _BusyError as error:
                self._warn(f"not tracked: {error}; upload it later with 'bench sync'")
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._off = True
        self._warn(
            f"{_reason(self._store.uri, error)}; the results on disk are complete, upload"
            " them later with 'bench sync'"
        )


def sync(results: Path, uri: str, told: Callable[[str], None]) -> str | None:
    """Upload every stored run that a tracking store does not have.

    Runs that another process is uploading are left until the end, waited for up to :data:`WAIT`
    seconds, and then left out.

    Parameters
    ----------
    results
        Results folder.
    uri
        Tracking URI.
    told
        Told in a line of every run that is uploaded or left out, and of all runs together.

    Returns
    -------
    str
        Why the store could not be given everything, None if it has everything.

    Raises
    ------
    BenchError
        There is nothing to upload, or nowhere to upload it to.
    """
    if uri == NONE:
        raise BenchError("--tracking none: there is nothing to upload to; name a tracking URI")
    runs = [
        run
        for dataset, protocols in stored_names(results).items()
        for protocol in protocols
        for run in stored_runs(results, dataset, protocol, "figures")
        if run.done
    ]
    if not runs:
        raise BenchError(f"{results}: no finished folds here; make some with 'bench run'")
    store = _Store(uri, results, _PATIENT, None, told)
    uploaded = there = 0

    def give(run: StoredRun, wait: float) -> None:
        nonlocal uploaded, there
        if store.give(run, wait, ask=True):
            uploaded += 1
            told(f"{_title(run)}: uploaded, {len(run.done)}/{run.facts['n_folds']} folds")
        else:
            there += 1

    busy = []
    try:
        for run in runs:
            try:
                give(run, 0.0)
            except _BusyError:
                busy.append(run)
        end = time.monotonic() + WAIT
        for run in busy:
            try:
                give(_newest(run), max(0.0, end - time.monotonic()))
            except _BusyError as error:
                told(f"{_title(run)}: left out, {error}")
    except Exception as error:  # noqa: BLE001 - whatever a tracking store fails with is its reason
        return _reason(store.uri, error)
    told(f"{uploaded} runs uploaded to {public(store.uri)}, {there} were there already")
    return None


def open_database(results: Path, uri: str) -> str | None:
    """Make the database of a results folder ready, and let its locations follow the folder.

    Parameters
    ----------
    results
        Results folder.
    uri
        Tracking URI; nothing is done for that of another store.

    Returns
    -------
    str
        What became of a database that could not be used, None where nothing has to be told.

    Raises
    ------
    StoreError
        It cannot be read or written, or was made by a later MLflow.
    """
    if _name(uri, results) != DATABASE:
        return None
    path, artifacts = database_path(results), results / ARTIFACTS
    told = make_ready(path, artifacts)
    follow_folder(path, artifacts)
    return told


class _BusyError(Exception):
    """Another process is uploading the run."""


class _Store:
    """One tracking store, and what this results folder has given to it.

    Parameters
    ----------
    uri, results
        As of :class:`Tracker`.
    settings
        How long MLflow waits for a server, as its own variables say it; the user's come first.
    patience
        Seconds that the upload of a fold may take, None for all it takes.
    told
        Told in a line what became of a database that could not be used.
    """

    def __init__(
        self,
        uri: str,
        results: Path,
        settings: Mapping[str, str],
        patience: float | None,
        told: Callable[[str], None],
    ) -> None:
        self.uri = uri
        self._results = results
        self._settings = settings
        self._patience = patience
        self._told = told
        self._name = _name(uri, results)
        self._deadline = 0.0
        self._lease: SoftFileLease | None = None
        self._client: MlflowClient | None = None
        self._followed = False
        self._listed: dict[str, StoredRun] = {}

    def give(self, run: StoredRun, wait: float = 0.0, *, ask: bool = False) -> bool:
        """Upload a run and those of its folds that are not there.

        Parameters
        ----------
        run
            The run.
        wait
            Seconds to wait for another process that is uploading it.
        ask
            Ask the store whether it still has a run that was uploaded before.

        Returns
        -------
        bool
            Whether there was something to upload.

        Raises
        ------
        _BusyError
            Another process is uploading it.
        Exception
            Whatever MLflow raises.
        """
        if not run.done or (not ask and self._was_given(run)):
            return False
        with _claimed(run, wait) as self._lease:
            # A database that was not ready, or that another process has filled, is asked again.
            client = self._connect()
            run = _with_uploaded(run, self._known(run))
            if self._was_given(run) and not (ask and self._parent(client, run) is None):
                return False
            self._upload(run)
            return True

    def _was_given(self, run: StoredRun) -> bool:
        """Whether a run was uploaded as it is now, as far as this folder knows."""
        known = self._known(run)
        state = _state(_with_uploaded(run, known))
        return {**known, **state} == known and not self._is_lost(run, state)

    def _upload(self, run: StoredRun) -> None:
        client = self._connect()
        self._restart()
        card = _card(run)
        given: dict[str, str] = {}
        parent = self._parent(client, run)
        if parent is not None and parent.info.lifecycle_stage == "active":
            experiment = str(parent.info.experiment_id)
            given = self._given_folds(run)
        else:
            experiment = self._experiment(client, run)
            parent = self._find(client, experiment, run.folder.key)
        if parent is not None:
            run_id = str(parent.info.run_id)
        else:
            name, identity = run.facts["label"], {_KEY: run.folder.key}
            run_id = self._new_run(client, experiment, name, _created(run), identity)
        state = _state(run)
        for index in run.done:
            if given.get(str(index)) != state["folds"][str(index)]:
                self._restart()
                self._upload_fold(client, experiment, run_id, run, index, card)
        self._restart()
        upload_studies(client, experiment, run_id, run, self._check)
        self._describe(client, run_id, run, card)
        self._summarise(client, run_id, run, state["status"])
        self._describe_experiment(client, experiment, run)
        path = run.folder.path / _RECORD
        record = _read(path)
        record[self._name] = {"experiment_id": experiment, "run_id": run_id, **state}
        # Without a record the uploads are found by their keys.
        with suppress(OSError):
            write_record(path, record)

    def _known(self, run: StoredRun) -> dict[str, Any]:
        return _known(run.folder.path / _RECORD, self._name)

    def _given_folds(self, run: StoredRun) -> dict[str, str]:
        """Folds that were uploaded, each with its version; a local database is asked for them."""
        given: dict[str, str] = self._known(run)["folds"]
        if not self._is_default:
            return given
        path = database_path(self._results)
        return {index: of for index, of in given.items() if has_uploads(path, _VERSION, [of])}

    @property
    def _is_default(self) -> bool:
        return self._name == DATABASE

    def _is_lost(self, run: StoredRun, state: dict[str, Any]) -> bool:
        """Whether a local database does not have what the record says; cheap."""
        if not self._is_default:
            path = _local_file(self.uri)
            return path is not None and not path.is_file()
        path = database_path(self._results)
        if not is_ready(path):
            return True
        if not self._followed:
            self._followed = True
            follow_folder(path, self._results / ARTIFACTS)
        versions = state["folds"].values()
        return not (
            has_uploads(path, _KEY, [run.folder.key]) and has_uploads(path, _VERSION, versions)
        )

    def _restart(self) -> None:
        self._deadline = time.monotonic() + (self._patience or float("inf"))

    def _check(self) -> None:
        if self._lease is not None:
            check_held(self._lease)
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"a fold was not uploaded within {self._patience:g} s")

    def _connect(self) -> MlflowClient:
        if self._client is None:
            import_mlflow(self._settings)
            told = open_database(self._results, self.uri)
            path = _local_file(self.uri)
            if not self._is_default and path is not None and not path.is_file():
                told = make_ready(path, self._results / ARTIFACTS)
            if told is not None:
                self._told(told)
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self.uri)
        return self._client

    # ------------------------------------------------------------ finding and making runs

    def _parent(self, client: MlflowClient, run: StoredRun) -> Run | None:
        """The MLflow run that was made for a run, deleted or not; None where there is none."""
        from mlflow.exceptions import MlflowException

        run_id = self._known(run).get("run_id")
        if not isinstance(run_id, str):
            return None
        try:
            found = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise
            return None
        return found if found.data.tags.get(_KEY) == run.folder.key else None

    def _experiment(self, client: MlflowClient, run: StoredRun) -> str:
        from mlflow.exceptions import MlflowException

        name = f"{run.facts['dataset']}-{run.facts['protocol']}"
        if (found := client.get_experiment_by_name(name)) is None:
            location = None
            if self.uri.startswith("sqlite:"):
                location = (self._results / ARTIFACTS / name).resolve().as_uri()
            tags = {"mlflow.experimentKind": "custom_model_development"}
            try:
                made = client.create_experiment(name, artifact_location=location, tags=tags)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                # Another process has just made it.
                found = client.get_experiment_by_name(name)
            else:
                return str(made)
        if found.lifecycle_stage == "deleted":
            raise BenchError(f"experiment {name} was deleted there; restore it or purge it")
        return str(found.experiment_id)

    def _find(self, client: MlflowClient, experiment: str, key: str) -> Run | None:
        found = client.search_runs([experiment], f"tags.`{_KEY}` = '{key}'", max_results=1)
        return found[0] if found else None

    def _new_run(
        self, client: MlflowClient, experiment: str, name: str, begin: int, tags: dict[str, str]
    ) -> str:
        self._check()
        from_us = {"mlflow.source.name": "bench run", "mlflow.source.type": "LOCAL"}
        made = client.create_run(experiment, begin, {**from_us, **tags}, run_name=name)
        return str(made.info.run_id)

    # --------------------------------------------------------------------------- a fold

    def _upload_fold(
        self,
        client: MlflowClient,
        experiment: str,
        parent: str,
        run: StoredRun,
        index: int,
        card: DatasetCard | None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        fold = run.folder.fold(index)
        facts = fold.facts()
        begin, end = _times(fold)
        key = pages.fold_key(run.folder, index)
        identity = {_KEY: key, _VERSION: fold.version(), "mlflow.parentRunId": parent}
        found = self._find(client, experiment, key)
        if found is not None:
            if found.info.status == "FINISHED" and identity.items() <= found.data.tags.items():
                return
            # Done again since, or broken off in the middle: MLflow's histories only grow.
            self._discard(client, experiment, found)
        name = f"{run.facts['label']} fold {index}"
        child = self._new_run(client, experiment, name, begin, identity)
        tags = {"level": "fold", "method": run.facts["label"], "fold": str(index)}
        tags |= {"test": ",".join(facts["test"]), "device": facts["device"]}
        tags |= {"precision": facts["precision"]}
        tags |= {"kind": run.facts["kind"], "folds_hash": run.facts["folds_hash"]}
        client.log_batch(
            child,
            params=[Param("fold", str(index)), Param("test", tags["test"])],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        data = pages.dataset_input(run, card)
        client.log_inputs(child, [data])
        self._check()
        model = self._upload_model(client, experiment, child, run, index, card)
        self._check()
        metrics = _curve_metrics(pages.fold_curves(fold), end)
        costs = pages.fold_costs(fold)
        metrics += [Metric(name, value, end, 0) for name, value in costs.items()]
        of_model = {"dataset_name": data.dataset.name, "dataset_digest": data.dataset.digest}
        of_model["model_id"] = model
        scores = pages.fold_scores(fold)
        metrics += [Metric(name, value, end, 0, **of_model) for name, value in scores.items()]
        self._log_metrics(client, child, metrics)
        self._upload_maps(client, parent, child, run, index)
        client.set_terminated(child, "FINISHED", end)

    def _discard(self, client: MlflowClient, experiment: str, run: Run) -> None:
        run_id = run.info.run_id
        for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
            client.delete_logged_model(model.model_id)
        client.delete_run(run_id)

    def _log_metrics(self, client: MlflowClient, run_id: str, metrics: list[Any]) -> None:
        for start in range(0, len(metrics), 900):  # the protocol's limit is 1,000
            client.log_batch(run_id, metrics=metrics[start : start + 900])
            self._check()

    def _upload_model(
        self,
        client: MlflowClient,
        experiment: str,
        child: str,
        run: StoredRun,
        index: int,
        card: DatasetCard | None,
    ) -> str | None:
        """Log the fitted model of a fold; gives its id, None where there is none to log."""
        from mlflow.entities import LoggedModelOutput

        folder = run.folder.fold(index).path / MODEL
        if not folder.is_dir():
            return None
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size > MODEL_LIMIT:
            said = f"not uploaded: {size >> 20} MB, more than {MODEL_LIMIT >> 20} MB"
            client.set_tag(child, "model", said)
            return None
        facts = run.facts
        name = re.sub(r"[^\w-]", "-", f"{facts['label']}-fold-{index}")
        tags = {name: facts[name] for name in ("method", "dataset", "protocol")}
        tags["preset"] = shown_preset(facts)
        genes = len(run.folder.fold(index).facts()["panel"])
        tags |= {"fold": str(index), pages.NOTE: pages.model_note(genes)}
        settings = {key: str(value) for key, value in facts["config"].items()}
        model = client.create_logged_model(experiment, name, child, tags, settings)
        client.log_outputs(child, [LoggedModelOutput(model.model_id, step=0)])
        with tempfile.TemporaryDirectory() as made:
            description = Path(made) / "described"
            save_model(description, run, index, card, model.model_id)
            client.log_model_artifacts(model.model_id, str(description))
        self._check()
        client.log_model_artifacts(model.model_id, str(folder), f"{DATA}/{MODEL}")
        client.finalize_logged_model(model.model_id, "READY")
        client.set_tag(child, "model", model.model_uri)
        return str(model.model_id)

    def _upload_maps(
        self, client: MlflowClient, parent: str, child: str, run: StoredRun, index: int
    ) -> None:
        """Pictures of a fold's predictions: all with its run, one in the run's row of pictures."""
        fold = run.folder.fold(index)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "prediction_maps.png"
            prediction_map(fold, path, f"{run.facts['label']} on {run.facts['dataset']}")
            client.log_artifact(child, str(path))
        self._check()
        end = _times(fold)[1]
        # MLflow's names of such images; one more of the same would be shown twice.
        same = re.compile(rf"[+%]step[+%]{index}[+%]timestamp[+%]{end}[+%]")
        if any(same.search(item.path) for item in client.list_artifacts(parent, "images")):
            return
        picture = pages.compared_map(run, index)
        if picture is not None:
            client.log_image(parent, picture, key=_MAPS, step=index, timestamp=end)

    # ------------------------------------------------------------------- run and experiment

    def _describe(
        self, client: MlflowClient, run_id: str, run: StoredRun, card: DatasetCard | None
    ) -> None:
        from mlflow.entities import Param, RunTag

        facts = run.facts
        named = ("label", "kind", "seed", "dataset", "protocol")
        params = {name: facts[name] for name in named} | {"preset": shown_preset(facts)}
        params |= {f"config.{key}": value for key, value in facts["config"].items()}
        tags = {
            "level": "run",
            "method": facts["label"],
            "kind": facts["kind"],
            "preset": shown_preset(facts),
            "changes": json.dumps(used_values(facts)),
            "dataset": facts["dataset"],
            "protocol": facts["protocol"],
            "dataset_hash": facts["dataset_hash"],
            "protocol_hash": facts["protocol_hash"],
            "folds_hash": facts["folds_hash"],
            "git_commit": facts["git_commit"] or "none",
            "folds_done": f"{len(run.done)}/{facts['n_folds']}",
            "sections": facts["n_sections"],
            pages.NOTE: pages.run_note(run),
        }
        tags |= {f"version.{name}": value for name, value in facts["packages"].items()}
        client.log_batch(
            run_id,
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, str(value)) for key, value in tags.items()],
        )
        client.log_inputs(run_id, [pages.dataset_input(run, card)])

    def _summarise(self, client: MlflowClient, run_id: str, run: StoredRun, status: str) -> None:
        from mlflow.entities import Metric

        times = [_times(run.folder.fold(index)) for index in run.done]
        last = max(end for _, end in times)
        values = pages.run_metrics(run)
        metrics = [Metric(name, value, last, 0) for name, value in values.items()]
        if status == "FINISHED":
            # Earlier they would change with every fold, and MLflow would show all of them.
            metrics += _curve_metrics(pages.mean_curves(run), last)
        self._log_metrics(client, run_id, metrics)
        client.log_text(run_id, render([run], "csv"), "table.csv")
        client.log_text(run_id, render([run], "markdown"), "table.md")
        client.log_text(run_id, json.dumps(run.facts, indent=2), "run.json")
        if status == "RUNNING":
            client.update_run(run_id, status)
        else:
            spent = sum(end - begin for begin, end in times)
            client.set_terminated(run_id, status, _created(run) + spent)

    def _describe_experiment(self, client: MlflowClient, experiment: str, run: StoredRun) -> None:
        # One at a time, so that the last one to write has seen all runs.
        with ExitStack() as held:
            with suppress(StoreError):
                path = run.folder.path.parent / _CLAIM_OF_DESCRIPTION
                held.enter_context(claim(path, PATIENCE / 2))
            self._write_description(client, experiment, run)

    def _write_description(self, client: MlflowClient, experiment: str, run: StoredRun) -> None:
        facts = run.facts
        beside = []
        for found in pages.listed_runs(self._results, facts["dataset"], facts["protocol"]):
            versions = ",".join(found.folder.fold(index).version() for index in found.done)
            # The same object, so that the rows of the table are not made anew.
            beside.append(self._listed.setdefault(found.folder.key + versions, found))
        client.set_experiment_tag(experiment, pages.NOTE, pages.experiment_note(beside))
        if pages.VIEW_TAG not in client.get_experiment(experiment).tags:
            view = pages.saved_view(_created(run))
            client.set_experiment_tag(experiment, pages.VIEW_TAG, view)


@contextmanager
def _claimed(run: StoredRun, wait: float) -> Iterator[SoftFileLease]:
    """Keep other processes from uploading a run while the block runs."""
    with ExitStack() as held:
        try:
            lease = held.enter_context(claim(run.folder.path / _CLAIM, wait))
        except StoreError as error:
            raise _BusyError(str(error)) from None
        yield lease


def _name(uri: str, results: Path) -> str:
    """Name of a store in the records; that of the default one does not change with its place."""
    path = _local_file(uri)
    is_default = path is not None and path.resolve() == database_path(results)
    return DATABASE if is_default else public(uri)


def _local_file(uri: str) -> Path | None:
    """File of an SQLite database, None where a URI names none."""
    path = uri.removeprefix(_SQLITE)
    if path == uri or "?" in path or path in {"", ":memory:"}:
        return None
    return Path(path).absolute()


def _title(run: StoredRun) -> str:
    return f"{run.facts['dataset']} {run.facts['protocol']} {run.facts['label']}"


def _newest(run: StoredRun) -> StoredRun:
    """A run as it lies on disk now."""
    return stored_run(run.folder, "figures") or replace(run, done=())


def _read(path: Path) -> dict[str, Any]:
    """A run's record of uploads; empty where it is missing or damaged."""
    try:
        return read_record(path)
    except RecursionError:
        return {}


def _known(path: Path, name: str) -> dict[str, Any]:
    """What a run's record says that a store was given."""
    record = _read(path)
    known = record.get(name)
    if known is None and name == DATABASE:
        # The name that older versions gave to it.
        known = record.get(f"{_SQLITE}{database_path(path.parents[4])}")
    return known if isinstance(known, dict) and isinstance(known.get("folds"), dict) else {}


def _with_uploaded(run: StoredRun, known: dict[str, Any]) -> StoredRun:
    """A run with the folds that another process has finished and uploaded meanwhile."""
    done = set(run.done)
    for index in range(int(run.facts["n_folds"])):
        path = run.folder.fold(index).path / MANIFEST
        if index not in done and str(index) in known.get("folds", {}) and path.is_file():
            version = run.folder.fold(index).version()
            done |= {index} if known["folds"][str(index)] == version else set()
    return run if done == set(run.done) else replace(run, done=tuple(sorted(done)), _read={})


def _state(run: StoredRun) -> dict[str, Any]:
    """What of a run a store has to be given: its folds as they are now, and how it ended."""
    status = "FINISHED"
    if len(run.done) < run.facts["n_folds"]:
        failed = any(run.folder.path.glob(f"fold-*/{FAILURE}"))
        status = "FAILED" if failed else "RUNNING"
    versions = {str(index): run.folder.fold(index).version() for index in run.done}
    return {"folds": versions, "status": status}


def _created(run: StoredRun) -> int:
    return int(datetime.fromisoformat(run.facts["created"]).timestamp() * 1000)


def _times(fold: FoldFolder) -> tuple[int, int]:
    """When a fold began and ended, in milliseconds since 1970: the same at every upload."""
    end = int((fold.path / MANIFEST).stat().st_mtime * 1000)
    return end - int(1000 * sum(fold.facts()["timings"].values())), end


def _curve_metrics(curves: Any, end: int) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(f"curves/{row.name}", float(row.value), end, int(row.epoch))
        for row in curves.itertuples(index=False)
    ]


def _card(run: StoredRun) -> DatasetCard | None:
    """Card of a run's dataset, None for a card of the user's own: a run does not keep it."""
    name = run.facts["dataset"]
    return dataset_card(name) if name in find_datasets() else None


def _reason(uri: str, error: Exception) -> str:
    return f"tracking at {public(uri)} failed ({type(error).__name__}: {one_line(public(error))})"

"""Upload of the result store to MLflow. Results on disk come first.

Everything here is a function of stored files, so that a failed upload can be repeated
later. mlflow is imported when the first upload is due, never for ``--tracking none``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from bench.claims import DURATION
from bench.errors import BenchError
from bench.files import one_line
from bench.records import read_record
from bench.registry import dataset_card
from bench.stored_runs import StoredRun, stored_names, stored_runs
from bench.tracking import pages
from bench.tracking.database import database_path
from bench.tracking.logged_bundle import DatasetOnHand
from bench.tracking.pages import public
from bench.tracking.records import RECORD, SQLITE, BusyError, as_stored, known_uploads, store_name
from bench.tracking.tracking_store import TrackingStore

NONE = "none"
"""Tracking URI that turns uploads off."""

FOLD_SECONDS = 60.0
"""Maximum seconds for the upload of a fold during a run."""

WAIT = DURATION + 15
"""Seconds that a call waits at its end for other processes uploading the same runs."""

# A server that is down must delay a run by seconds only; 'bench sync' may wait longer.
SHORT_WAITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_LONG_WAITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}


def tracking_uri(asked: str | None, results: Path) -> str:
    """Tracking URI: the option, ``MLFLOW_TRACKING_URI``, or SQLite in the results folder."""
    chosen = asked or os.environ.get("MLFLOW_TRACKING_URI")
    return chosen or f"{SQLITE}{database_path(results)}"


def newest_page(results: Path, uri: str) -> str | None:
    """Path, under the server's address, of the page with the newest uploaded run."""
    newest = ("", "")
    for path in (results / "runs").glob(f"*/*/*/{RECORD}"):
        known = known_uploads(path, store_name(uri, results))
        created = str(read_record(path.with_name("run.json")).get("created", ""))
        newest = max(newest, (created, str(known.get("experiment_id", ""))))
    return pages.page(newest[1]) if newest[1] else None


class Tracker:
    """Uploads runs to one tracking store; a failure causes one warning and ends the uploads.

    Parameters
    ----------
    uri
        Tracking URI, or ``none``.
    results
        Results folder; artifacts of a local database are stored in it.
    warn
        Receives one line when the store cannot be reached.
    dataset, data_root
        Name or card file of the dataset of the runs, and the folder of its files, for what a
        logged model says of its training.
    """

    def __init__(
        self,
        uri: str,
        results: Path,
        warn: Callable[[str], None],
        dataset: str | None = None,
        data_root: Path | None = None,
    ) -> None:
        self._warn = warn
        self._off = uri == NONE
        data = None if dataset is None else DatasetOnHand(dataset_card(dataset), data_root)
        self._store = TrackingStore(uri, results, SHORT_WAITS, FOLD_SECONDS, warn, data)
        self._left: dict[Path, StoredRun] = {}

    def upload(self, run: StoredRun) -> None:
        """Upload a run and those of its finished folds that the store lacks.

        A run that another process is uploading is left for :meth:`finish`. Never raises for a
        store that is down, slow or broken: the results are on disk.
        """
        if self._off or not run.done:
            return
        try:
            self._store.give(run)
        except BusyError:
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
                self._store.give(as_stored(run), max(0.0, end - time.monotonic()))
            except BusyError as error:
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
        Receives a line for every run that is uploaded or left out, and one for all runs.

    Returns
    -------
    str
        Reason why the upload is incomplete, None if it is complete.

    Raises
    ------
    BenchError
        There is nothing to upload, or no store.
    """
    if uri == NONE:
        raise BenchError("--tracking none: there is nothing to upload to; name a tracking URI")
    runs = [
        run
        for dataset, protocols in stored_names(results).items()
        for protocol in protocols
        for run in stored_runs(results, dataset, protocol, "figures")
        if run.done and not run.origin
    ]
    if not runs:
        raise BenchError(f"{results}: no finished folds here; make some with 'bench run'")
    store = TrackingStore(uri, results, _LONG_WAITS, None, told)
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
            except BusyError:
                busy.append(run)
        end = time.monotonic() + WAIT
        for run in busy:
            try:
                give(as_stored(run), max(0.0, end - time.monotonic()))
            except BusyError as error:
                told(f"{_title(run)}: left out, {error}")
    except Exception as error:  # noqa: BLE001 - any error of a store is its reason
        return _reason(store.uri, error)
    told(f"{uploaded} runs uploaded to {public(store.uri)}, {there} were there already")
    return None


def _title(run: StoredRun) -> str:
    return f"{run.facts['dataset']} {run.facts['protocol']} {run.facts['label']}"


def _reason(uri: str, error: Exception) -> str:
    return f"tracking at {public(uri)} failed ({type(error).__name__}: {one_line(public(error))})"

"""Storage of the trials of a study, and recovery of trials whose worker died."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from bench.errors import BenchError, StoreError
from bench.files import one_line
from bench.store import not_writable

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

JOURNAL = "journal.log"
WORKERS = "workers"

HEARTBEAT_SECONDS = 20
"""Seconds between heartbeats of a worker in a database; it counts as dead after three missed."""

RETRIES = 1
"""Maximum number of restarts of a trial whose worker died."""


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Storage of a study.

    Parameters
    ----------
    url
        Database URL such as ``postgresql+psycopg://user@host/name`` or ``sqlite:///file.db``; None
        for a journal file in `folder`, which several processes may use at once.
    folder
        The study's folder; it exists.

    Raises
    ------
    StoreError
        The database cannot be reached, or the file cannot be written or read.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library warns that it is experimental
            if url is None:
                path = folder / JOURNAL
                _mend(path)
                return JournalStorage(JournalFileBackend(str(path), lock_obj=_journal_lock(path)))
            return RDBStorage(
                url,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=3 * HEARTBEAT_SECONDS,
                heartbeat_stale_trial_callback=retry,
                engine_kwargs={"connect_args": {"timeout": 60}} if "sqlite" in url else {},
            )
    except OSError as error:
        raise not_writable(folder, error) from error
    except ImportError as error:
        raise BenchError(
            f"--storage {_public(url)}: its driver is not installed ({one_line(error)});"
            " pip install 'spotbench[postgresql]' or 'spotbench[mysql]'"
        ) from error
    except Exception as error:  # the libraries below share no base error
        where = _public(url) if url else folder / JOURNAL
        raise StoreError(
            f"{where}: cannot be used as a tuning storage ({type(error).__name__}:"
            f" {one_line(error, 200)})"
        ) from error


def _public(url: str | None) -> str:
    """URL without its password."""
    parts = urlsplit(url or "")
    if parts.password is None:
        return url or ""
    return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")).geturl()


def _journal_lock(path: Path) -> Any:
    from optuna.storages.journal._file import BaseJournalFileLock

    class SystemLock(BaseJournalFileLock):
        """Lock that the system frees when its process dies, unlike the library's own locks."""

        def __init__(self) -> None:
            self._lock = FileLock(f"{path}.lock")

        def acquire(self) -> bool:
            self._lock.acquire()
            return True

        def release(self) -> None:
            self._lock.release()

    return SystemLock()


def _mend(path: Path) -> None:
    """Remove an unfinished last line of a killed process; the next line would be appended to it."""
    if not path.is_file():
        return
    with FileLock(f"{path}.lock"), path.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _LONGEST_LINE))
        tail = stream.read()
        if tail and not tail.endswith(b"\n"):
            stream.truncate(size - len(tail) + tail.rfind(b"\n") + 1)


_LONGEST_LINE = 1 << 20


def retry(study: Study, trial: FrozenTrial) -> None:
    """Queue a trial again whose worker died, with the same settings, at most `RETRIES` times."""
    from optuna.storages import RetryHeartbeatStaleTrialCallback

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)(study, trial)


@contextmanager
def living_worker(folder: Path) -> Iterator[str]:
    """Hold a lock while this worker runs; yields the worker's name for its trials."""
    name = uuid.uuid4().hex
    path = folder / WORKERS / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path):
            yield name
    finally:
        path.unlink(missing_ok=True)


def others_work(folder: Path, worker: str) -> bool:
    """Whether other workers of the study run on this file system.

    Parameters
    ----------
    folder
        Folder of the study.
    worker
        Name of the worker that asks, from :func:`living_worker`.
    """
    for path in (folder / WORKERS).glob("*.lock"):
        if path.stem == worker:
            continue
        try:
            with FileLock(path, timeout=0):  # of a worker that died
                continue
        except Timeout:
            return True
    return False


def requeue_stale_trials(study: Study, folder: Path) -> int:
    """Fail the running trials of workers that died on this file system, and queue them again.

    Workers on other machines have no lock here; a missing heartbeat marks them as dead.

    Returns
    -------
    int
        Number of trials queued again.
    """
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    requeued = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        path = folder / WORKERS / f"{trial.user_attrs.get('worker')}.lock"
        if not path.is_file():
            continue
        try:
            with FileLock(path, timeout=0):
                # The lock of the dead worker excludes other processes.
                storage = study._storage
                now = storage.get_trial(trial._trial_id)
                if now.state == TrialState.RUNNING:
                    storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
                    retry(study, now)
                    requeued += 1
        except (Timeout, UpdateFinishedTrialError):
            continue
    return requeued

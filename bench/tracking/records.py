"""Records of uploads in a run's folder, and claims on an upload."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import SoftFileLease

from bench.claims import claim
from bench.errors import StoreError
from bench.records import read_record
from bench.store import FAILURE, MANIFEST
from bench.stored_runs import StoredRun, stored_run
from bench.tracking.database import DATABASE, database_path
from bench.tracking.pages import public

RECORD = "tracking.json"
SQLITE = "sqlite:///"
_CLAIM = ".upload"


class BusyError(Exception):
    """Another process is uploading the run."""


@contextmanager
def claimed_upload(run: StoredRun, wait: float) -> Iterator[SoftFileLease]:
    """Keep other processes from uploading a run while the block runs."""
    with ExitStack() as held:
        try:
            lease = held.enter_context(claim(run.folder.path / _CLAIM, wait))
        except StoreError as error:
            raise BusyError(str(error)) from None
        yield lease


def store_name(uri: str, results: Path) -> str:
    """Name of a store in the records; that of the default store does not depend on its path."""
    path = local_file(uri)
    is_default = path is not None and path.resolve() == database_path(results)
    return DATABASE if is_default else public(uri)


def local_file(uri: str) -> Path | None:
    """File of an SQLite database, None if the URI names none."""
    path = uri.removeprefix(SQLITE)
    if path == uri or "?" in path or path in {"", ":memory:"}:
        return None
    return Path(path).absolute()


def as_stored(run: StoredRun) -> StoredRun:
    """Run as currently stored on disk."""
    return stored_run(run.folder, "figures") or replace(run, done=())


def read_uploads(path: Path) -> dict[str, Any]:
    """Record of a run's uploads; empty if it is missing or damaged."""
    try:
        return read_record(path)
    except RecursionError:
        return {}


def known_uploads(path: Path, name: str) -> dict[str, Any]:
    """Recorded uploads of a run to a store."""
    record = read_uploads(path)
    known = record.get(name)
    if known is None and name == DATABASE:
        # Name in records of older versions.
        known = record.get(f"{SQLITE}{database_path(path.parents[4])}")
    return known if isinstance(known, dict) and isinstance(known.get("folds"), dict) else {}


def with_uploaded(run: StoredRun, known: dict[str, Any]) -> StoredRun:
    """Run with the folds that another process has finished and uploaded in the meantime."""
    done = set(run.done)
    for index in range(int(run.facts["n_folds"])):
        path = run.folder.fold(index).path / MANIFEST
        if index not in done and str(index) in known.get("folds", {}) and path.is_file():
            version = run.folder.fold(index).version()
            done |= {index} if known["folds"][str(index)] == version else set()
    return run if done == set(run.done) else replace(run, done=tuple(sorted(done)), _read={})


def upload_state(run: StoredRun) -> dict[str, Any]:
    """State of a run to upload: the versions of its folds, and its status."""
    status = "FINISHED"
    if len(run.done) < run.facts["n_folds"]:
        failed = any(run.folder.path.glob(f"fold-*/{FAILURE}"))
        status = "FAILED" if failed else "RUNNING"
    versions = {str(index): run.folder.fold(index).version() for index in run.done}
    return {"folds": versions, "status": status}

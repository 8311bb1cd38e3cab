"""What a run's folder says that tracking stores have been given, and claims on an upload."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import SoftFileLease

from bench.claims import claim
from bench.errors import StoreError
from bench.store import FAILURE, MANIFEST, StoredRun, read_record, stored_run
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
    """Name of a store in the records; that of the default one does not change with its place."""
    path = local_file(uri)
    is_default = path is not None and path.resolve() == database_path(results)
    return DATABASE if is_default else public(uri)


def local_file(uri: str) -> Path | None:
    """File of an SQLite database, None where a URI names none."""
    path = uri.removeprefix(SQLITE)
    if path == uri or "?" in path or path in {"", ":memory:"}:
        return None
    return Path(path).absolute()


def as_stored(run: StoredRun) -> StoredRun:
    """A run as it lies on disk now."""
    return stored_run(run.folder, "figures") or replace(run, done=())


def read_uploads(path: Path) -> dict[str, Any]:
    """A run's record of uploads; empty where it is missing or damaged."""
    try:
        return read_record(path)
    except RecursionError:
        return {}


def known_uploads(path: Path, name: str) -> dict[str, Any]:
    """What a run's record says that a store was given."""
    record = read_uploads(path)
    known = record.get(name)
    if known is None and name == DATABASE:
        # The name that older versions gave to it.
        known = record.get(f"{SQLITE}{database_path(path.parents[4])}")
    return known if isinstance(known, dict) and isinstance(known.get("folds"), dict) else {}


def with_uploaded(run: StoredRun, known: dict[str, Any]) -> StoredRun:
    """A run with the folds that another process has finished and uploaded meanwhile."""
    done = set(run.done)
    for index in range(int(run.facts["n_folds"])):
        path = run.folder.fold(index).path / MANIFEST
        if index not in done and str(index) in known.get("folds", {}) and path.is_file():
            version = run.folder.fold(index).version()
            done |= {index} if known["folds"][str(index)] == version else set()
    return run if done == set(run.done) else replace(run, done=tuple(sorted(done)), _read={})


def upload_state(run: StoredRun) -> dict[str, Any]:
    """What of a run a store has to be given: its folds as they are now, and how it ended."""
    status = "FINISHED"
    if len(run.done) < run.facts["n_folds"]:
        failed = any(run.folder.path.glob(f"fold-*/{FAILURE}"))
        status = "FAILED" if failed else "RUNNING"
    versions = {str(index): run.folder.fold(index).version() for index in run.done}
    return {"folds": versions, "status": status}

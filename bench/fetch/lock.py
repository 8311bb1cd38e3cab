"""Writing the lock file of a data folder; :mod:`bench.data.lock` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from bench.data.lock import LOCK, Entry, read_lock
from bench.data.stored_files import stored_hash, stored_size
from bench.files import write_json


def write_lock(root: Path, entries: Mapping[str, Entry]) -> None:
    """Add entries to a data folder's lock file, or replace them, beside other processes."""
    with FileLock(root / f".{LOCK}.lock"):
        together = {**read_lock(root), **entries}
        write_json(root / LOCK, {path: entry.model_dump() for path, entry in together.items()})


def entry_of(path: Path, url: str | None = None) -> Entry:
    """Entry for a file as it is now."""
    return Entry(sha256=stored_hash(path), size=stored_size(path), url=url)

"""Folders that appear under their final names when they are complete."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from bench.store import not_writable

_AT_A_TIME = 8


@contextmanager
def staging_folder(parent: Path, name: str, option: str = "--results") -> Iterator[Path]:
    """A temporary folder in `parent`, which is removed at the end whatever has happened.

    Messages name `option` as the one that chooses the place.

    Raises
    ------
    StoreError
        It cannot be made or written.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
    except OSError as error:
        raise not_writable(parent, error, option) from error
    try:
        yield folder
    except OSError as error:
        raise not_writable(parent, error, option) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_staged(path: Path, content: str | bytes) -> None:
    """Write a file of a folder that has not got its final name yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def flush(folder: Path) -> None:
    """Flush all files below a folder to disk, several at a time."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        list(threads.map(_flush, paths))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(made: Path, target: Path) -> None:
    """Move a complete folder to its final name; a folder that is there gives way.

    Where that fails, the folder that was there stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    made.chmod(0o755)
    old = made.with_name(f"{made.name}-old")
    if target.exists():  # a folder that is not empty cannot be renamed over
        os.replace(target, old)
    try:
        os.replace(made, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    _flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename the folder there to `path` once complete.

    A folder that exists is replaced. On an error it stays as it was, and nothing is left behind.

    Parameters
    ----------
    path
        Final name. Missing parent folders are made.

    Yields
    ------
    Path
        Name that does not exist yet, with the suffix of `path`; the caller makes the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        yield made
        flush(made)
        put_in_place(made, path)
    finally:
        shutil.rmtree(made, ignore_errors=True)

"""Writing folders so that a final name always means a complete folder.

Apart from :mod:`bench.files`, whose code is part of the keys of fits.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; rename it to `path` once complete.

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
    made, old = (path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}") for _ in "12")
    try:
        yield made
        for part in (*made.rglob("*"), made):
            _flush(part)
        if path.is_dir():  # a folder that is not empty cannot be renamed over
            os.replace(path, old)
        try:
            os.replace(made, path)
        except OSError:
            if old.is_dir():
                os.replace(old, path)
            raise
        _flush(path.parent)
    finally:
        for folder in (made, old):
            shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

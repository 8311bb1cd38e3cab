"""Files of a card on disk: plain files, and Zarr stores, which are folders of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bench.errors import DataError
from bench.files import canonical_hash, file_hash

ZARR_METADATA = ("zarr.json", ".zgroup", ".zarray")
"""Files of which each group and each array of a Zarr store has one."""

_MOST_FILES = 1_000_000


def is_store(path: Path) -> bool:
    """Whether a path is the folder of a Zarr store, or of a group or an array in one."""
    return any((path / name).is_file() for name in ZARR_METADATA)


def is_stored(path: Path) -> bool:
    """Whether a path is a file that a card can name: a plain file or a Zarr store."""
    return path.is_file() or is_store(path)


def stored_files(path: Path) -> dict[str, Path]:
    """Files of a Zarr store by their names relative to it, with ``/``, in the order of the names.

    Raises
    ------
    DataError
        A link that leads out of the store or to a folder, something that is neither a file nor a
        folder, more than a million files, or a folder that cannot be read.
    """
    try:
        return dict(sorted(_walk(path, path.resolve())))
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason})") from error


def _walk(folder: Path, root: Path) -> Iterator[tuple[str, Path]]:
    waiting = [("", root)]
    number = 0
    while waiting:
        prefix, place = waiting.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                shown = f"{folder}: '{name[:80]}'"
                if entry.is_symlink():
                    target = Path(entry.path).resolve()
                    if not target.is_relative_to(root):
                        raise DataError(f"{shown} is a link that leads out of the store")
                    if not target.is_file():
                        raise DataError(f"{shown} is a link to what is no file of the store")
                elif entry.is_dir():
                    waiting.append((f"{name}/", Path(entry.path)))
                    continue
                elif not entry.is_file():
                    raise DataError(f"{shown} is neither a file nor a folder")
                number += 1
                if number > _MOST_FILES:
                    raise DataError(f"{folder}: a store of more than {_MOST_FILES:,} files")
                yield name, Path(entry.path)


def stored_size(path: Path) -> int:
    """Bytes of a file, or of all files of a Zarr store."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in stored_files(path).values())


def stored_hash(path: Path, algorithm: str = "sha256") -> str:
    """Hash of a file's bytes, or of the names and contents of all files of a Zarr store.

    Parameters
    ----------
    path
        File or folder.
    algorithm
        See :func:`bench.files.file_hash`; that of a folder is always ``sha256``, and equal to
        :func:`bench.sources.content_hash`.

    Raises
    ------
    DataError
        See :func:`stored_files`; or another algorithm for a folder.
    """
    if not path.is_dir():
        return file_hash(path, algorithm)
    if algorithm != "sha256":
        raise DataError(f"{path}: a folder has a sha256 hash alone, not {algorithm}")
    try:
        return canonical_hash(
            [[name, file_hash(file)] for name, file in stored_files(path).items()]
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def stored_state(path: Path) -> list[int]:
    """Bytes and time of the last change; of a store also its files: equal if nothing changed."""
    if not path.is_dir():
        return [path.stat().st_size, path.stat().st_mtime_ns]
    states = [file.stat() for file in stored_files(path).values()]
    size = sum(state.st_size for state in states)
    return [size, max((state.st_mtime_ns for state in states), default=0), len(states)]

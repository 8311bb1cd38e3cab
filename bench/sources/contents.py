"""Hashes of files and folders by their contents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from bench.errors import DataError
from bench.files import canonical_hash, file_hash, one_line


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, or of the relative names and contents of all files in a folder.

    Symbolic links are followed, except one to a folder that contains it. Empty folders do not
    count.

    Raises
    ------
    DataError
        Something in it is missing, cannot be read, or is neither a file nor a folder.
    """
    try:
        if not path.is_dir():
            return _regular_hash(path)
        files = sorted(files_in(path))
        return canonical_hash([[name, _regular_hash(file)] for name, file in files])
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error


def _regular_hash(path: Path) -> str:
    # Reading a pipe or a device would block or never end.
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: neither a file nor a folder")
    return file_hash(path)


def files_in(
    folder: Path,
    counts: Callable[[PurePath], bool] = lambda path: True,
    above: tuple[Path, ...] = (),
) -> Iterator[tuple[str, Path]]:
    """Relative name and path of each file; `above` are the resolved folders that lead here."""
    above = (*above, folder.resolve())
    for path in filter(counts, folder.iterdir()):
        if not path.is_dir():
            yield path.name, path
        elif path.resolve() not in above:
            for name, file in files_in(path, counts, above):
                yield f"{path.name}/{name}", file

"""Transfer of folders between machines without a shared disk, packed into arrays of bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from bench.encoders.declaration import LOCAL_FOLDER
from bench.errors import StoreError
from bench.files import atomic_write

Files = Mapping[str, np.ndarray]
"""Content of files, (bytes,) uint8, by their names relative to a folder, with ``/``."""


def pack(folder: Path) -> dict[str, np.ndarray]:
    """Content of all files in a folder and below it, mapped into memory and not copied.

    Raises
    ------
    StoreError
        The folder contains a symbolic link or another entry that is not a regular file.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise StoreError(f"{path}: not a regular file, and cannot be sent")
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = file_content(path)
    return files


def file_content(path: Path) -> np.ndarray:
    """Content of a file, (bytes,) uint8, mapped into memory."""
    if path.stat().st_size == 0:
        return np.empty(0, dtype=np.uint8)
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))


def unpack(files: Files, folder: Path) -> None:
    """Write files into a new folder; names that lead out of it are refused.

    Raises
    ------
    StoreError
        A name is not a plain relative one, two names contradict each other, or the folder exists;
        nothing is written then.
    """
    names = {name: inside(name) for name in files}
    used_as_folder = {parent for path in names.values() for parent in path.parents}
    for name, path in names.items():
        if path in used_as_folder:
            raise StoreError(f"received '{name}' both as a file and as a folder")
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise StoreError(f"{folder}: exists; files are received into a new folder") from None
    for name, content in files.items():
        with atomic_write(folder / names[name]) as temporary:
            temporary.write_bytes(content.data)


def inside(name: str) -> PurePosixPath:
    """Validated path of a received file relative to its folder.

    Raises
    ------
    StoreError
        The name is absolute, contains ``..``, or is otherwise not a plain relative path.
    """
    path = PurePosixPath(name)
    if (
        not path.parts
        or path.is_absolute()
        or path.as_posix() != name  # empty parts, a slash at the end
        or ".." in path.parts
        or any(character in "\\:\0" for character in name)
        or not _is_text(name)
    ):
        raise StoreError(f"received a file named '{name[:80]!a}', which is refused")
    return path


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def map_texts(settings: Any, change: Callable[[str], str]) -> Any:
    """Settings with a function applied to every text.

    Parameters
    ----------
    settings
        JSON values, such as the settings of a method.
    change
        Function that returns the new text.
    """
    if isinstance(settings, Mapping):
        return {name: map_texts(value, change) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [map_texts(value, change) for value in settings]
    return change(settings) if isinstance(settings, str) else settings


def existing_path(text: str) -> tuple[str, Path] | None:
    """Absolute path of the file or folder that a setting names; None where there is none.

    A run is keyed by the content of the same files; see :func:`bench.execute.keys.run_key`.

    Returns
    -------
    tuple of str and Path
        What precedes the path in the setting, such as ``local-dir:``, mostly nothing; and the
        path.
    """
    if not text or "\0" in text:
        return None
    before = LOCAL_FOLDER if text.startswith(LOCAL_FOLDER) else ""
    path = Path(text.removeprefix(before)).expanduser()
    try:
        return (before, path.absolute()) if path.exists() else None
    except OSError:  # too long for a name
        return None

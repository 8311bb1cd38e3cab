"""Checks of the files that are read and written, before anything is computed."""

from __future__ import annotations

import os
import re
import stat
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.files import one_line

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_LONGEST_NAME = 255  # bytes, on every file system in use
_OF_HDF5 = re.compile(r"error message = '([^']*)'")


def other_kind(path: Path) -> str | None:
    """Kind of what lies at a path and is no regular file; None for a file or nothing.

    Opening a pipe waits for its writer, so it is asked first.
    """
    try:
        return _KINDS.get(stat.S_IFMT(path.stat().st_mode))
    except (OSError, ValueError):
        return None


def system_reason(error: OSError) -> str:
    """Reason of an error without the temporary name and the internals that h5py reports."""
    if error.errno is not None:
        return os.strerror(error.errno)
    found = _OF_HDF5.search(str(error))
    return one_line(found[1] if found else error)


def check_place(option: str, path: Path, *, folder: bool = False) -> None:
    """Refuse a place where no file can be written.

    Parameters
    ----------
    option
        Option that names it, for messages.
    path
        File or folder that will be written; missing parents will be made.
    folder
        Whether a folder may lie there.

    Raises
    ------
    BenchError
        A folder or anything else lies there, a parent is no folder or cannot be written, or a name
        is too long.
    """
    where = f"{option} {path}"
    kind = other_kind(path)
    if kind is not None and not (folder and kind == "a folder"):
        raise BenchError(f"{where}: is {kind}; name a file")
    existing, missing = path.absolute().parent, [path.name]
    while not os.path.lexists(existing):
        missing.append(existing.name)
        existing = existing.parent
    if not existing.is_dir():
        raise BenchError(f"{where}: {existing} is no folder; choose another place")
    # The file gets its name when it is complete, and has a longer one before.
    longest = max([missing[0] + uuid.uuid4().hex + "--", *missing[1:]], key=len)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except (OSError, ValueError) as error:
        reason = system_reason(error) if isinstance(error, OSError) else one_line(error)
        raise BenchError(
            f"{where}: its folder cannot be written ({reason}); choose another place"
        ) from error
    if len(os.fsencode(longest)) > _LONGEST_NAME:
        raise BenchError(f"{option} {one_line(longest, 40)}...: the name is too long")


def check_distinct(read: Mapping[str, Path], written: Sequence[tuple[str, Path]]) -> None:
    """Refuse a file that would overwrite another one of the same command.

    Parameters
    ----------
    read
        Files that are read, by what the user calls them.
    written
        Files and folders that are written, with the option and path that ask for each.

    Raises
    ------
    BenchError
        Two of them are the same file, also by a link, or one lies in a folder that is replaced.
    """
    known = list(read.items())
    for asked, path in written:
        for name, other in known:
            if _same(path, other):
                beside = "" if asked.endswith(f" {path}") else f" writes {path} too, which"
                raise BenchError(f"{asked}:{beside} is {name} itself; choose another name")
            if _inside(other, path) or (_inside(path, other) and name not in read):
                raise BenchError(
                    f"{asked}: a folder that is written as a whole would contain or be inside of"
                    f" {name}; choose another name"
                )
        known.append((f"the file of {asked}", path))


def _same(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def _inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))

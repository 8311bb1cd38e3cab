"""Writing files so that a final name always means a complete file, and hashing them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; rename it to `path` once complete.

    The file is flushed to disk before the rename and the folder after it, so that a crash at
    any moment leaves either the old file or the new one. On an error nothing is left behind.

    Parameters
    ----------
    path
        Final name. Missing parent folders are made.

    Yields
    ------
    Path
        Temporary file name with the suffix of `path`; the caller writes it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def process_folder(parent: Path) -> Path:
    """A new folder for files of this process; those of processes that were killed are removed."""
    parent.mkdir(parents=True, exist_ok=True)
    host = f"{platform.node()}-"
    for folder in parent.glob(f"{host}*"):
        pid = folder.name.removeprefix(host).partition("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{host}{os.getpid()}-", dir=parent))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN is refused because JSON has none."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def canonical_hash(value: Any) -> str:
    """SHA-256 of `value` as canonical JSON: the same content gives the same hash everywhere."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path | str, algorithm: str = "sha256") -> str:
    """Hash of a file's bytes.

    Parameters
    ----------
    path
        File to read.
    algorithm
        A name that :mod:`hashlib` knows, or ``git-blob`` for the SHA-1 by which git names a file.
    """
    if algorithm == "git-blob":
        digest = hashlib.sha1(f"blob {os.stat(path).st_size}\0".encode(), usedforsecurity=False)
    else:
        digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def printable(text: str) -> str:
    r"""A text that every terminal and encoding can show.

    Characters that cannot be printed (control characters, lone surrogates, marks that change the
    direction of writing) are given as escapes such as ``\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def one_line(message: object, limit: int = 200) -> str:
    """A message of any library as one printable line of at most `limit` characters.

    Parameters
    ----------
    message
        Text, or an object such as an exception.
    limit
        Largest number of characters.

    Returns
    -------
    str
        Without line breaks and control characters.
    """
    return printable(" ".join(str(message)[: 20 * limit].split())[:limit])[:limit]


def listed(names: Sequence[str]) -> str:
    """Names with commas; of more than eight the first seven and the last."""
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:7])}, ..., {names[-1]}"

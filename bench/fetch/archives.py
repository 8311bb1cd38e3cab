"""Reading members of archives that may be damaged or hostile.

Only members that a card names are read, and they are written to the paths of the card. Names,
links and sizes stated in an archive are checked.
"""

from __future__ import annotations

import bz2
import difflib
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from bench.data.card import FileCard
from bench.errors import DataError
from bench.files import atomic_write, one_line

_BLOCK = 1 << 20
_LONGEST_HEADER = 8 << 20

DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    IndexError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
)
"""Errors of the archive libraries for damaged archives, besides OSError without a number."""

Told = Callable[[FileCard, str | None], None]


@dataclass(frozen=True)
class Limits:
    """Limits on unpacking.

    Attributes
    ----------
    members
        Members of an archive.
    size, total
        Bytes of one unpacked file, and of all that is unpacked from one archive.
    ratio, free
        Bytes unpacked for each packed byte, once more than `free` bytes are unpacked.
    """

    members: int = 100_000
    size: int = 20 << 30
    total: int = 200 << 30
    ratio: int = 200
    free: int = 16 << 20


LIMITS = Limits()


def copy_bounded(
    source: IO[bytes],
    target: IO[bytes],
    limit: int,
    packed: Callable[[], int] | None = None,
    limits: Limits = LIMITS,
) -> int:
    """Copy a stream; refuse it when it exceeds its limits.

    Parameters
    ----------
    source, target
        Streams of bytes.
    limit
        Largest number of bytes.
    packed
        Returns the number of packed bytes read so far, where `source` unpacks.
    limits
        Largest ratio of unpacked to packed bytes.

    Returns
    -------
    int
        Bytes copied.

    Raises
    ------
    DataError
        More bytes than `limit` or the ratio allows.
    """
    given = 0
    while block := source.read(_BLOCK):
        given += len(block)
        if given > limit:
            raise DataError(f"more than the expected {limit:,} bytes")
        if packed is not None:
            _check_ratio(given, packed(), limits)
        target.write(block)
    return given


def _check_ratio(given: int, packed: int, limits: Limits) -> None:
    if given > limits.free and given > limits.ratio * packed:
        raise DataError(f"unpacks to more than {limits.ratio} times its size, as no table does")


def extract(
    archive: Path,
    files: Sequence[FileCard],
    root: Path,
    told: Told,
    limits: Limits = LIMITS,
) -> None:
    """Write the named members of an archive to the paths that their cards name.

    Each file is compared with its card before it gets its final name. A fault of one member is
    reported and does not affect the others.

    Parameters
    ----------
    archive
        Zip file, or tar file, plain or compressed by gzip, xz or bzip2; recognised by content.
    files
        Cards of files, each with its member.
    root
        Data folder.
    told
        Called for each file with None when it is complete, or with the fault.
    limits
        Limits on unpacking.

    Raises
    ------
    DataError
        The archive as a whole cannot be read; files not reported are missing.
    """
    try:
        with open(archive, "rb") as stream:
            start = stream.read(8)
            if start[:4] in {b"PK\3\4", b"PK\5\6"}:
                _extract_zip(archive, files, root, told, limits)
                return
        waiting = list(files)
        while waiting:
            # Two files may be copies of one member; a stream gives each member once.
            once = {_plain(str(file.member)): file for file in reversed(waiting)}
            _extract_tar(archive, start, once, root, told, limits)
            waiting = [file for file in waiting if not any(file is f for f in once.values())]
    except DataError as error:
        raise DataError(f"{archive.name}: {error}") from error
    except DAMAGE as error:
        raise DataError(f"{archive.name}: damaged archive ({one_line(error)})") from error
    except OSError as error:
        raise DataError(f"{archive.name}: {_reason(error)}") from error


def _plain(name: str) -> str:
    """Name of a member without the ``./`` that tar adds to members of a folder."""
    return name.removeprefix("./")


def _reason(error: OSError) -> str:
    # Decompressors raise OSError for damaged data, without a number.
    return f"{error.strerror}" if error.errno else f"damaged archive ({one_line(error)})"


def _missing(file: FileCard, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(file.member), names[:10_000], n=3, cutoff=0.5)
    offer = f"nearest are {', '.join(near)}" if near else f"it holds {len(names)} others"
    return f"the archive has no member '{file.member}'; {one_line(offer)}"


def _write(
    file: FileCard, root: Path, source: IO[bytes], packed: Callable[[], int], limits: Limits
) -> None:
    limit = limits.size if file.size is None else file.size
    with atomic_write(root / file.path) as temporary:
        with open(temporary, "wb") as target:
            if file.unpack == "gzip":
                with gzip.GzipFile(fileobj=source) as content:
                    copy_bounded(cast("IO[bytes]", content), target, limit, packed, limits)
            else:
                copy_bounded(source, target, limit, packed, limits)
        _, fault = file.compare(temporary)
        if fault:
            raise DataError(fault)


@contextmanager
def _each(file: FileCard, told: Told) -> Iterator[None]:
    """Report the outcome of one file; its fault is not raised further."""
    try:
        yield
    except DataError as error:
        told(file, str(error))
    except DAMAGE as error:
        told(file, f"damaged in its archive ({one_line(error)})")
    except OSError as error:
        told(file, _reason(error))
    else:
        told(file, None)


def _extract_zip(
    archive: Path, files: Sequence[FileCard], root: Path, told: Told, limits: Limits
) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        if len(members) > limits.members:
            raise DataError(f"more than {limits.members:,} members")
        times = Counter(_plain(member.filename) for member in members)
        by_name = {_plain(member.filename): member for member in members}
        total = 0
        for file in files:
            with _each(file, told):
                member = by_name.get(_plain(str(file.member)))
                if member is None:
                    raise DataError(_missing(file, list(by_name)))
                if times[_plain(member.filename)] > 1:
                    raise DataError(f"the archive has two members '{file.member}'")
                mode = member.external_attr >> 16
                if member.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
                    raise DataError(f"member '{file.member}' is no regular file")
                if member.flag_bits & 1:
                    raise DataError(f"member '{file.member}' is encrypted")
                total += member.file_size
                if member.file_size > limits.size or total > limits.total:
                    raise DataError(f"member '{file.member}' is too large")
                size = member.compress_size
                with opened.open(member) as source:
                    _write(file, root, source, lambda size=size: size, limits)  # type: ignore[misc]


class _Forward:
    """Unpacked tar stream that is read forwards once, within limits.

    :mod:`tarfile` reads whole headers at once, whatever length they declare, and skips members by
    seeking: both are bounded here.
    """

    def __init__(self, stream: IO[bytes], packed: int, limits: Limits) -> None:
        self._stream = stream
        self._packed = packed
        self._limits = limits
        self._at = 0

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise DataError("a header that is longer than any real one")
        block = self._stream.read(size)
        self._at += len(block)
        _check_ratio(self._at, self._packed, self._limits)
        if self._at > self._limits.total:
            raise DataError(f"unpacks to more than {self._limits.total:,} bytes")
        return block

    def seek(self, to: int) -> int:
        if to < self._at:
            raise DataError("a member that begins before the one in front of it")
        while self._at < to and self.read(min(_BLOCK, to - self._at)):
            pass
        return self._at


def _unpacked(archive: Path, start: bytes) -> IO[bytes]:
    if start.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.open(archive, "rb"))
    if start.startswith(b"\xfd7zXZ\0"):
        return cast("IO[bytes]", lzma.open(archive, "rb"))
    if start.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.open(archive, "rb"))
    return open(archive, "rb")


def _extract_tar(
    archive: Path,
    start: bytes,
    files: dict[str, FileCard],
    root: Path,
    told: Told,
    limits: Limits,
) -> None:
    waiting = dict(files)
    names: list[str] = []
    packed = archive.stat().st_size
    with _unpacked(archive, start) as stream:
        forward = cast("io.BytesIO", _Forward(stream, packed, limits))
        with tarfile.open(fileobj=forward, mode="r:") as opened:
            while waiting and (member := opened.next()) is not None:
                if len(names) >= limits.members:
                    raise DataError(f"more than {limits.members:,} members")
                names.append(_plain(member.name))
                file = waiting.pop(names[-1], None)
                if file is None:
                    continue
                with _each(file, told):
                    source = opened.extractfile(member) if _is_plain_file(member) else None
                    if source is None:
                        raise DataError(f"member '{file.member}' is no regular file")
                    if member.size > limits.size:
                        raise DataError(f"member '{file.member}' is too large")
                    with source:
                        _write(file, root, source, lambda: packed, limits)
    for file in waiting.values():
        told(file, _missing(file, names))


def _is_plain_file(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse()

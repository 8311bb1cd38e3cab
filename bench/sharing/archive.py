"""The results archive: a zip file with an index that holds the hash and size of every member.

Members lie in the archive as in a results folder (:mod:`bench.store`)::

    index.json
    study.yaml                                                        optional
    folds/<dataset>/<protocol>/folds-<hash>.json
    runs/<dataset>/<protocol>/<method>-<key>/run.json
    runs/<dataset>/<protocol>/<method>-<key>/label.json (a row that was given a name)
    runs/<dataset>/<protocol>/<method>-<key>/fold-<n>/manifest.json, fold.json, scores.parquet,
                                                      genes.parquet, curves.parquet,
                                                      predictions.h5ad (optional)

The same results give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.data.card import InsidePath
from bench.errors import DataError
from bench.faults import first_fault
from bench.fetch.archives import DAMAGE, copy_bounded
from bench.files import atomic_write, file_hash, one_line
from bench.version import __version__

SUFFIX = ".spotbench.zip"
INDEX = "index.json"
STUDY = "study.yaml"
_FORMAT = 1
_KIND = "spotbench results"
_BLOCK = 1 << 20

MOST_MEMBERS = 500_000
MOST_BYTES = 50 << 30
"""Limit on all members of an archive together, unpacked."""

_LARGEST = {
    INDEX: 256 << 20,
    ".json": 64 << 20,
    ".yaml": 4 << 20,
    ".parquet": 1 << 30,
    ".h5ad": 16 << 30,
}
"""Limits on unpacked bytes by ending."""

_MEMBER = re.compile(
    r"study\.yaml"
    r"|folds/[\w.-]+/[\w.-]+/folds-[0-9a-f]{12}\.json"
    r"|runs/[\w.-]+/[\w.-]+/[\w.\[\]-]+/(?:run|label)\.json"
    r"|runs/[\w.-]+/[\w.-]+/[\w.\[\]-]+/fold-\d{1,5}/"
    r"(?:(?:manifest|fold)\.json|(?:scores|genes|curves)\.parquet|predictions\.h5ad)"
)
_SAME_DATE = (1980, 1, 1, 0, 0, 0)


class _Indexed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class ResultsIndex(BaseModel):
    """What a results archive says of itself.

    Attributes
    ----------
    kind, format
        Of results archives; others are refused.
    spotbench
        Version that wrote it.
    runs
        Folders of the runs, under ``runs``.
    files
        SHA-256 and size of every other member.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["spotbench results"]
    format: Literal[1]
    spotbench: str = Field(max_length=100)
    runs: tuple[InsidePath, ...] = Field(min_length=1)
    files: dict[Annotated[InsidePath, Field(max_length=500)], _Indexed]


def write_archive(path: Path, runs: list[str], members: Mapping[str, Path | bytes]) -> None:
    """Write an archive; `members` are files, or their content."""
    files = {name: described(member) for name, member in sorted(members.items())}
    told = {"kind": _KIND, "format": _FORMAT, "spotbench": __version__, "runs": sorted(runs)}
    index = ResultsIndex.model_validate({**told, "files": files})
    text = json.dumps(index.model_dump(mode="json"), indent=1, sort_keys=True)
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(_entry(INDEX), text)
        for name, member in sorted(members.items()):
            if isinstance(member, bytes):
                archive.writestr(_entry(name), member)
            else:
                with member.open("rb") as source, archive.open(_entry(name), "w") as target:
                    copy_bounded(source, target, _limit(name))


def _entry(name: str) -> zipfile.ZipInfo:
    """Header of a member; its date is always the same."""
    entry = zipfile.ZipInfo(name, _SAME_DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry


def described(member: Path | bytes) -> dict[str, Any]:
    """SHA-256 and size of a file or of its content."""
    if isinstance(member, bytes):
        return {"sha256": hashlib.sha256(member).hexdigest(), "size": len(member)}
    return {"sha256": file_hash(member), "size": member.stat().st_size}


def _limit(name: str) -> int:
    return _LARGEST[name if name in _LARGEST else Path(name).suffix]


class ResultsArchive:
    """An open archive, whose directory has been compared with its index.

    Attributes
    ----------
    path, index
        The file, and its index.
    sha256
        Hash of the whole file.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        self._entries = self._directory()
        self.index = self._read_index()
        self._compare()
        self.sha256 = file_hash(path)

    def read(self, name: str) -> bytes:
        """Content of a member, compared with its hash.

        Raises
        ------
        DataError
            Missing, or not what the index says.
        """
        stream = io.BytesIO()
        self.copy(name, stream)
        return stream.getvalue()

    def copy(self, name: str, target: IO[bytes]) -> None:
        """Write the content of a member to a stream; errors as for :meth:`read`."""
        if name not in self.index.files:
            raise DataError(f"{self.path}: has no member {one_line(name)}")
        wanted, digest = self.index.files[name], hashlib.sha256()

        class Hashing(io.RawIOBase):
            def write(self, block: Any) -> int:
                digest.update(block)
                return target.write(block)

        try:
            size = self._copy(name, cast("IO[bytes]", Hashing()), wanted.size)
        except DataError as error:
            raise DataError(f"{self.path}: {name}: {error}") from error
        except (*DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(f"{self.path}: {name} is damaged ({one_line(error, 80)})") from error
        if (size, digest.hexdigest()) != (wanted.size, wanted.sha256):
            raise DataError(f"{self.path}: {name} is damaged or was changed: its hash differs")

    def json(self, name: str) -> dict[str, Any]:
        """A member that is a JSON object; numbers that JSON has not are refused."""
        return self._parsed(name, self.read(name))

    def _parsed(self, name: str, text: bytes) -> dict[str, Any]:
        def refuse(constant: str) -> None:
            raise ValueError(f"{constant} is no number of JSON")

        try:
            value = json.loads(text, parse_constant=refuse)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path}: {name} is not JSON ({one_line(error, 80)})") from error
        if not isinstance(value, dict):
            raise DataError(f"{self.path}: {name} is no JSON object")
        return value

    def _copy(self, name: str, target: IO[bytes], limit: int) -> int:
        entry = self._entries[name]
        with self._archive.open(entry, mode="r") as source:
            return copy_bounded(source, target, limit, lambda: entry.compress_size)

    def _directory(self) -> dict[str, zipfile.ZipInfo]:
        listed = self._archive.infolist()
        if not listed:
            raise DataError(f"{self.path}: is an empty zip file")
        if len(listed) > MOST_MEMBERS:
            raise DataError(f"{self.path}: more than {MOST_MEMBERS:,} members")
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in listed:
            name, mode = entry.filename, entry.external_attr >> 16
            said = f"{self.path}: member '{one_line(name, 80)}'"
            if name.startswith("/") or "\\" in name or ".." in name.split("/"):
                raise DataError(f"{said} lies outside of the archive")
            if entry.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
                raise DataError(f"{said} is no regular file")
            if entry.flag_bits & 1:
                raise DataError(f"{said} is encrypted")
            if name in entries:
                raise DataError(f"{said} is there twice")
            entries[name] = entry
        if sum(entry.file_size for entry in listed) > MOST_BYTES:
            raise DataError(f"{self.path}: unpacks to more than {MOST_BYTES >> 30} GiB")
        return entries

    def _read_index(self) -> ResultsIndex:
        if INDEX not in self._entries:
            held = "a model bundle" if "bundle.json" in self._entries else "another zip file"
            raise DataError(f"{self.path}: is no results archive but {held}: it has no {INDEX}")
        stream = io.BytesIO()
        self._copy(INDEX, stream, _LARGEST[INDEX])
        told = self._parsed(INDEX, stream.getvalue())
        if told.get("format") != _FORMAT or told.get("kind") != _KIND:
            raise DataError(
                f"{self.path}: {one_line(told.get('kind'), 40)} of format"
                f" {one_line(told.get('format'), 20)}; this version reads '{_KIND}' of format"
                f" {_FORMAT}"
            )
        try:
            return ResultsIndex.model_validate(told)
        except ValidationError as error:
            raise DataError(f"{self.path}: {INDEX}: {first_fault(error, told)}") from error

    def _compare(self) -> None:
        """Compare the directory with the index: no member more, none less, sizes as stated."""
        files = self.index.files
        for name in self._entries.keys() - files.keys() - {INDEX}:
            raise DataError(f"{self.path}: member '{one_line(name, 80)}' is not in its index")
        for name, file in files.items():
            if not _MEMBER.fullmatch(name):
                raise DataError(f"{self.path}: '{one_line(name, 80)}' does not belong to results")
            if name not in self._entries:
                raise DataError(f"{self.path}: {name} is missing")
            if self._entries[name].file_size != file.size:
                raise DataError(f"{self.path}: {name} is damaged or was changed: its size differs")
            if file.size > _limit(name):
                raise DataError(f"{self.path}: {name} has {file.size:,} bytes, which is too many")


@contextmanager
def open_archive(path: Path) -> Iterator[ResultsArchive]:
    """Open an archive for as long as the context lasts.

    Raises
    ------
    DataError
        No results archive, or a damaged or hostile one.
    """
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from error
    except DAMAGE as error:
        raise DataError(f"{path}: is no complete zip file ({one_line(error, 80)})") from error
    with archive:
        try:
            opened = ResultsArchive(path, archive)
        except DataError as error:
            text = str(error)
            raise DataError(text if str(path) in text else f"{path}: {text}") from error
        except DAMAGE as error:
            raise DataError(f"{path}: is damaged ({one_line(error, 80)})") from error
        yield opened

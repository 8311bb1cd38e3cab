"""The result store: where a run lies, when a fold counts as done, and reading it back.

Layout under the results folder::

    folds/<dataset>/<protocol>/folds-<hash>.json
    runs/<dataset>/<protocol>/<method>-<key>/run.json
    runs/<dataset>/<protocol>/<method>-<key>/fold-<n>/manifest.json   written last
                                                      scores.parquet, genes.parquet,
                                                      predictions.h5ad, curves.parquet,
                                                      fold.json, model/

A fold is done if its manifest names its key and every file has the size and SHA-256 that the
manifest says. That a file exists means nothing.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from bench.errors import StoreError
from bench.files import atomic_write, canonical_hash, file_hash, write_json

MANIFEST = "manifest.json"
FAILURE = "failure.txt"
MODEL = "model"
SCRATCH = "scratch"


@dataclass(frozen=True)
class RunFolder:
    """One run: a method with its settings on a dataset under a protocol with a seed."""

    path: Path
    key: str

    def fold(self, index: int) -> FoldFolder:
        """Folder of one of its folds."""
        return FoldFolder(self.path / f"fold-{index}", canonical_hash([self.key, index]))

    @property
    def results(self) -> Path:
        """The results folder it lies in; see :func:`run_folder`."""
        return self.path.parents[3]

    def describe(self, facts: dict[str, Any]) -> None:
        """Write ``run.json`` unless the same run has one."""
        if read_run(self.path) is None:
            try:
                write_json(self.path / "run.json", {**facts, "key": self.key})
            except OSError as error:
                raise not_writable(self.path, error) from error

    def discard_if_empty(self) -> None:
        """Remove the run if nothing came of it: a refused request leaves nothing.

        A finished fold, a training checkpoint and the traceback of a failure are kept.
        """
        kept = (MANIFEST, FAILURE, f"{SCRATCH}/*")
        if not any(any(self.path.glob(f"fold-*/{name}")) for name in kept):
            shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes off this run.

        Raises
        ------
        StoreError
            Another process works on it. The lock of a process that died is free.
        """
        lock = FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(
                f"{self.path}: another process is working on this run; wait for it, then call"
                " again, and what it finished is kept"
            ) from None
        except OSError as error:
            raise not_writable(self.path, error) from error
        try:
            yield
        finally:
            lock.release()


@dataclass(frozen=True)
class FoldFolder:
    """Result of one fold."""

    path: Path
    key: str

    def is_done(self, *, models: bool = True) -> bool:
        """Whether the manifest is of this key and all its files are what it says.

        Parameters
        ----------
        models
            Also hash the fitted model, which tables and figures do not read and which may be
            large; without it only its size is compared.
        """
        manifest = _read_json(self.path / MANIFEST)
        if manifest is None or manifest.get("key") != self.key:
            return False
        files = manifest.get("files")
        if not isinstance(files, dict) or not files:
            return False
        return all(
            self._matches(name, facts, models or not name.startswith(f"{MODEL}/"))
            for name, facts in files.items()
        )

    def _matches(self, name: str, facts: Any, content: bool) -> bool:
        path = self.path / name
        if not path.is_file() or not isinstance(facts, dict):
            return False
        if path.stat().st_size != facts.get("size"):
            return False
        return not content or file_hash(path) == facts.get("sha256")

    def clear(self) -> None:
        """Remove all but training checkpoints; the manifest goes first."""
        (self.path / MANIFEST).unlink(missing_ok=True)
        if self.path.is_dir():
            for item in self.path.iterdir():
                if item.name != self.scratch.name:
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
        self.path.mkdir(parents=True, exist_ok=True)

    @property
    def scratch(self) -> Path:
        """Folder for training checkpoints, gone once the fold is done."""
        return self.path / SCRATCH

    def finish(self) -> None:
        """Write the manifest over all files, after which the fold counts as done."""
        if self.scratch.is_dir():
            shutil.rmtree(self.scratch)
        (self.path / FAILURE).unlink(missing_ok=True)
        files = {
            path.relative_to(self.path).as_posix(): {
                "size": path.stat().st_size,
                "sha256": file_hash(path),
            }
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        }
        write_json(self.path / MANIFEST, {"key": self.key, "files": files})

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write a table as Parquet."""
        with atomic_write(self.path / name) as temporary:
            table.to_parquet(temporary, index=False)

    def read_table(self, name: str) -> pd.DataFrame:
        """Read a table that :meth:`write_table` wrote."""
        return pd.read_parquet(self.path / name)

    def version(self) -> str:
        """SHA-256 of the manifest: changes whenever the fold is done again."""
        return file_hash(self.path / MANIFEST)

    def facts(self) -> dict[str, Any]:
        """Contents of ``fold.json``."""
        return _read_json(self.path / "fold.json") or {}


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A run found in a results folder, as it was when it was looked at.

    Attributes
    ----------
    folder
        Where it lies.
    facts
        Contents of ``run.json``.
    done
        Indices of its folds that are done.
    """

    folder: RunFolder
    facts: dict[str, Any]
    done: tuple[int, ...]
    _read: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def scores(self) -> pd.DataFrame:
        """Long-form scores of all folds that are done."""
        return self._tables("scores.parquet")

    def genes(self) -> pd.DataFrame:
        """One row per gene and section of all folds that are done."""
        return self._tables("genes.parquet")

    def _tables(self, name: str) -> pd.DataFrame:
        if name not in self._read:
            tables = [self.folder.fold(index).read_table(name) for index in self.done]
            self._read[name] = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
        return self._read[name].copy()


def run_folder(results: Path, dataset: str, protocol: str, method: str, key: str) -> RunFolder:
    """Folder of a run; the method's name is for people, the key decides."""
    label = method.replace(":", "-")
    return RunFolder(results / "runs" / dataset / protocol / f"{label}-{key[:12]}", key)


def image_file(dataset: str, section: str, image_hash: str) -> Path:
    """Where in a results folder the small copy of a section's image lies, for maps."""
    return Path("images", dataset, f"{section}-{canonical_hash(image_hash)[:12]}.jpg")


def folds_folder(results: Path, dataset: str, protocol: str) -> Path:
    """Where the folds of a dataset under a protocol are written."""
    return results / "folds" / dataset / protocol


def read_run(path: Path) -> dict[str, Any] | None:
    """Contents of a run folder's ``run.json``, None where there is no readable one."""
    facts = _read_json(path / "run.json")
    wanted = {"key": str, "label": str, "kind": str, "n_folds": int, "folds_hash": str}
    if facts is None or not all(isinstance(facts.get(k), v) for k, v in wanted.items()):
        return None
    return facts


def stored_run(folder: RunFolder) -> StoredRun | None:
    """A run as it lies on disk, None where nothing is."""
    facts = read_run(folder.path)
    if facts is None or facts["key"] != folder.key:
        return None
    done = tuple(
        index for index in range(int(facts["n_folds"])) if folder.fold(index).is_done(models=False)
    )
    return StoredRun(folder, facts, done)


def stored_runs(results: Path, dataset: str, protocol: str) -> list[StoredRun]:
    """All runs on a dataset under a protocol, oldest first."""
    found = []
    for path in sorted((results / "runs" / dataset / protocol).glob("*/run.json")):
        facts = read_run(path.parent)
        if facts is None:
            continue
        run = stored_run(RunFolder(path.parent, facts["key"]))
        if run is not None:
            found.append(run)
    return sorted(found, key=lambda run: str(run.facts.get("created", "")))


def stored_names(results: Path) -> dict[str, list[str]]:
    """Datasets that have runs, each with its protocols."""
    names: dict[str, list[str]] = {}
    for path in sorted((results / "runs").glob("*/*")):
        if path.is_dir():
            names.setdefault(path.parent.name, []).append(path.name)
    return names


def check_writable(results: Path) -> None:
    """Make the results folder and try a write in it.

    Raises
    ------
    StoreError
        It cannot be made or written.
    """
    probe = results / ".writable"
    try:
        try:
            with atomic_write(probe) as temporary:
                temporary.write_bytes(b"")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise not_writable(results, error) from error


def disk_is_full(error: BaseException) -> bool:
    """Whether an error of any library means that the disk is full."""
    full = {errno.ENOSPC, errno.EDQUOT}
    if isinstance(error, OSError) and error.errno in full:
        return True
    # HDF5, Arrow and safetensors put the system's words into errors of their own.
    return any(os.strerror(number) in str(error) for number in full)


def not_writable(path: Path, error: BaseException) -> StoreError:
    """The one-line error for a write that failed."""
    if disk_is_full(error):
        return StoreError(
            f"{path}: disk is full; free some space and call again, finished folds are kept"
        )
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number else str(error)
    return StoreError(f"{path}: cannot be written ({reason}); choose another --results folder")


def read_record(path: Path) -> dict[str, Any]:
    """A small JSON object kept beside a run; empty where there is none."""
    return _read_json(path) or {}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Keep a small JSON object beside a run."""
    write_json(path, record)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None

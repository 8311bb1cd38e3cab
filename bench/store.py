"""The result store: where a run lies, and when a fold counts as done.

Layout under the results folder::

    folds/<dataset>/<protocol>/folds-<hash>.json
    runs/<dataset>/<protocol>/<method>-<key>/run.json
    runs/<dataset>/<protocol>/<method>-<key>/fold-<n>/manifest.json   written last
                                                      scores.parquet, genes.parquet,
                                                      predictions.h5ad, curves.parquet,
                                                      fold.json, model/
    runs/<dataset>/<protocol>/<method>-<key>/fold-<n>.claim           while somebody works on it

A fold is done if its manifest names its run and every file has the size and SHA-256 that the
manifest says. That a file exists means nothing. The manifest also says which fit and which
scores the files are of: see :mod:`bench.execute.keys`. Results of the first layout, whose
manifests have one key for both, are read but never taken for those of a run of today.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from bench.errors import StoreError
from bench.files import atomic_write, canonical_hash, file_hash
from bench.records import HASH, read_hashed, read_json, write_record

MANIFEST = "manifest.json"
RUN = "run.json"
FAILURE = "failure.txt"
_LONGEST_LABEL = 120
"""Characters of a row's name in the name of its folder."""

MODEL = "model"
PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"}
"""Endings of files that are pickles or hold them; no model is stored in one."""

SCRATCH = "scratch"
WORK = "work"

_RESCORED = "rescored"
_SCORED = ("scores.parquet", "genes.parquet", "predictions.h5ad", "fold.json")
"""Files that are rewritten when a fold is scored again."""

Use = Literal["run", "figures", "tables"]
_READ_BY = {
    "tables": {"scores.parquet", "fold.json"},
    "figures": {"scores.parquet", "genes.parquet", "fold.json", "predictions.h5ad"},
}


@dataclass(frozen=True)
class RunFolder:
    """One run: a method with its settings on a dataset under a protocol with a seed."""

    path: Path
    key: str

    def fold(self, index: int) -> FoldFolder:
        """Folder of one of its folds."""
        return FoldFolder(self.path / f"fold-{index}", self.key, index)

    @property
    def results(self) -> Path:
        """The results folder it lies in; see :func:`run_folder`."""
        return self.path.parents[3]

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Write ``run.json`` unless it says the same already.

        When and from which commit the run was first made is kept.
        """
        known = read_run(self.path)
        facts = {**facts, "key": self.key}
        if known is not None:
            facts |= {name: known.get(name) for name in ("created", "git_commit")}
            if facts == known:
                return
        try:
            write_record(self.path / RUN, facts)
        except OSError as error:
            raise not_writable(self.path, error) from error

    def discard_if_empty(self) -> None:
        """Remove the run if nothing came of it: a refused request leaves nothing.

        A finished fold, a training checkpoint, the reason of a failure and what another process
        works on are kept.
        """
        kept = (f"fold-*/{MANIFEST}", f"fold-*/{FAILURE}", f"fold-*/{SCRATCH}/*", "*.claim")
        if not any(any(self.path.glob(name)) for name in kept):
            shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True)
class FoldState:
    """What lies in the folder of a fold.

    Attributes
    ----------
    done
        Whether there is a complete result.
    fit_key, score_key
        Keys of its fit and of its scores; empty where there is no result, or one of the first
        layout.
    damage
        Which file is not what the manifest says, in a few words; empty where none is.
    """

    done: bool
    fit_key: str = ""
    score_key: str = ""
    damage: str = ""


@dataclass(frozen=True)
class FoldFolder:
    """Result of one fold of a run with a key."""

    path: Path
    run_key: str
    index: int

    def state(self, use: Use = "run") -> FoldState:
        """What lies here.

        Parameters
        ----------
        use
            What the result is wanted for: ``tables`` read scores alone and ``figures`` also those
            of genes and predictions; of the other files, which may be large, only the size is
            compared. ``run`` hashes all files.
        """
        try:
            names = os.listdir(self.path)
        except OSError:
            return FoldState(done=False)
        if _RESCORED in names:
            self._adopt()
        path = self.path / MANIFEST
        if MANIFEST not in names:
            return FoldState(done=False)
        manifest, hashed = read_hashed(path)
        if manifest is None:
            return FoldState(done=False, damage=f"{MANIFEST} is damaged or was edited")
        if hashed and (manifest.get("run"), manifest.get("fold")) == (self.run_key, self.index):
            keys = (str(manifest.get("fit_key")), str(manifest.get("score_key")))
        elif (
            not hashed
            and "run" not in manifest
            and manifest.get("key") == canonical_hash([self.run_key, self.index])
        ):
            keys = ("", "")  # the first layout
        else:
            return FoldState(done=False, damage=f"{MANIFEST} is of another run or was edited")
        files = manifest.get("files")
        if not isinstance(files, dict) or not files:
            return FoldState(done=False, damage=f"{MANIFEST} names no files")
        for name, facts in sorted(files.items()):
            fault = self._fault(name, facts, use == "run" or name in _READ_BY[use])
            if fault:
                return FoldState(False, *keys, damage=f"{name} {fault}")
        return FoldState(True, *keys)

    def is_done(self) -> bool:
        """Whether a complete result of any fit lies here; see :meth:`state`."""
        return self.state().done

    def _fault(self, name: str, facts: Any, content: bool) -> str:
        # Texts, not paths: a table of many folds spends most of its time here.
        if not isinstance(facts, dict) or os.path.isabs(name) or ".." in re.split(r"[/\\]", name):
            return "is not described"
        path = f"{self.path}/{name}"
        try:
            state = os.stat(path)
        except OSError:
            return "is missing"
        if not stat.S_ISREG(state.st_mode):
            return "is missing"
        same = state.st_size == facts.get("size")
        if not same or (content and file_hash(Path(path)) != facts.get(HASH)):
            return "is damaged or was edited"
        return ""

    @property
    def claim_file(self) -> Path:
        """File by which a process claims the fold."""
        return self.path.with_name(f"{self.path.name}.claim")

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

    @property
    def work(self) -> Path:
        """Folder for what a worker leaves; emptied before each job and gone after it."""
        return self.path / WORK

    def finish(self, fit_key: str, score_key: str) -> None:
        """Write the manifest over all files, after which the fold counts as done."""
        for folder in (self.scratch, self.work):
            if folder.is_dir():
                shutil.rmtree(folder)
        (self.path / FAILURE).unlink(missing_ok=True)
        files = {
            path.relative_to(self.path).as_posix(): _described(path)
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        }
        self._write_manifest(self.path, fit_key, score_key, files)

    @contextmanager
    def rescoring(self, score_key: str) -> Iterator[FoldFolder]:
        """Give a folder for new scores; they take the place of the old ones at the end.

        A process that is killed on the way leaves the old scores or the new ones.
        """
        manifest = read_json(self.path / MANIFEST) or {}
        staged = FoldFolder(self.path / _RESCORED, self.run_key, self.index)
        shutil.rmtree(staged.path, ignore_errors=True)
        staged.path.mkdir()
        try:
            yield staged
            files = dict(manifest["files"])
            files |= {name: _described(staged.path / name) for name in _SCORED}
            self._write_manifest(staged.path, str(manifest["fit_key"]), score_key, files)
        except BaseException:
            shutil.rmtree(staged.path, ignore_errors=True)
            raise
        self._adopt()

    def _adopt(self) -> None:
        """Finish a change of scores whose new files are complete."""
        staged = self.path / _RESCORED
        if not (staged / MANIFEST).is_file():
            return
        for name in (*_SCORED, MANIFEST):
            with suppress(FileNotFoundError):  # moved before the process was killed
                os.replace(staged / name, self.path / name)
        shutil.rmtree(staged, ignore_errors=True)

    def _write_manifest(
        self, folder: Path, fit_key: str, score_key: str, files: Mapping[str, Any]
    ) -> None:
        facts = {
            "run": self.run_key,
            "fold": self.index,
            "fit_key": fit_key,
            "score_key": score_key,
            "files": dict(files),
        }
        write_record(folder / MANIFEST, facts)

    def fail(self, reason: str, details: str) -> None:
        """Keep why the fold failed; the first line is the reason."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = f"{reason}\n\n{details}".encode("utf-8", "backslashreplace")
        with atomic_write(self.path / FAILURE) as temporary:
            temporary.write_bytes(text)

    def failure(self) -> str:
        """Reason of the latest failure, empty where there was none."""
        try:
            return (self.path / FAILURE).read_text(encoding="utf-8").partition("\n")[0]
        except OSError:
            return ""

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
        return read_json(self.path / "fold.json") or {}


def _described(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, HASH: file_hash(path)}


def run_folder(results: Path, dataset: str, protocol: str, method: str, key: str) -> RunFolder:
    """Folder of a run; the method's name is for people, the key decides."""
    name = f"{folder_name(method)}-{key[:12]}"
    return RunFolder(results / "runs" / dataset / protocol / name, key)


def folder_name(label: str) -> str:
    """Name of a row as the name of a folder."""
    return re.sub(r"[^\w.\[\]-]+", "-", label)[:_LONGEST_LABEL]


def image_file(dataset: str, section: str, image_hash: str) -> Path:
    """Where in a results folder the small copy of a section's image lies, for maps."""
    return Path("images", dataset, f"{section}-{canonical_hash(image_hash)[:12]}.jpg")


def folds_folder(results: Path, dataset: str, protocol: str) -> Path:
    """Where the folds of a dataset under a protocol are written."""
    return results / "folds" / dataset / protocol


def read_run(path: Path) -> dict[str, Any] | None:
    """Contents of a run folder's ``run.json``, None where there is no sound one."""
    facts, hashed = read_hashed(path / RUN)
    wanted = {"key": str, "label": str, "kind": str, "n_folds": int, "folds_hash": str}
    if facts is None or not all(isinstance(facts.get(k), v) for k, v in wanted.items()):
        return None
    if not hashed:  # the first layout; folds of a later one belong to a record with a hash
        manifests = [read_json(fold) or {} for fold in path.glob(f"fold-*/{MANIFEST}")]
        if any("run" in manifest for manifest in manifests):
            return None
    return facts


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


def not_writable(path: Path, error: BaseException, option: str = "--results") -> StoreError:
    """The one-line error for a write that failed; `option` chooses the folder."""
    if disk_is_full(error):
        return StoreError(
            f"{path}: disk is full; free some space and call again, finished folds are kept"
        )
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number else str(error)
    return StoreError(f"{path}: cannot be written ({reason}); choose another {option} folder")

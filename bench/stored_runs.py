"""Runs of a results folder, as tables, figures, pages and uploads read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.errors import BenchError, UnknownNameError
from bench.store import RUN, RunFolder, Use, read_run

PREDICTIONS = "predictions.h5ad"
"""Name of the predictions in the folder of a fold."""


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
    damaged
        What is damaged in folds that have been done, by their index.
    repeats
        Runs with the same key from other sources; see :func:`bench.report.tables.newest`.
    """

    folder: RunFolder
    facts: dict[str, Any]
    done: tuple[int, ...]
    damaged: Mapping[int, str] = field(default_factory=dict)
    repeats: tuple[StoredRun, ...] = ()
    _read: dict[tuple[str, tuple[str, ...] | None], pa.Table] = field(
        default_factory=dict, repr=False
    )
    _facts: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def origin(self) -> Mapping[str, str]:
        """Source of an imported run: ``name``, ``file``, ``sha256``; empty for one made here."""
        origin = self.facts.get("origin")
        return origin if isinstance(origin, Mapping) else {}

    @property
    def predicted(self) -> tuple[int, ...]:
        """Folds that are done and whose predictions are here: imported runs may lack them."""
        return tuple(
            index for index in self.done if (self.folder.fold(index).path / PREDICTIONS).is_file()
        )

    def scores(self) -> pd.DataFrame:
        """Long-form scores of all folds that are done."""
        return self._table("scores.parquet").to_pandas(use_threads=False)

    def score_columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Score, section, patient and value of each row of :meth:`scores`.

        Several times as fast, for tables of many runs.
        """
        names = ("score", "section", "patient", "value")
        score, section, patient, value = map(self._table("scores.parquet", names).column, names)
        return score.to_numpy(), section.to_numpy(), patient.to_numpy(), value.to_numpy()

    def genes(self) -> pd.DataFrame:
        """One row per gene and section of all folds that are done."""
        return self._table("genes.parquet").to_pandas(use_threads=False)

    def fold_facts(self, index: int) -> Mapping[str, Any]:
        """Contents of ``fold.json`` without the panel; read once."""
        if index not in self._facts:
            facts = self.folder.fold(index).facts()
            self._facts[index] = {name: facts[name] for name in facts if name != "panel"}
        return self._facts[index]

    def gene_columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gene, correlation and noise ceiling of each row of :meth:`genes`, several times as fast.

        They are not kept in memory.
        """
        names = ("gene", "pcc", "ceiling")
        table = self._table("genes.parquet", names)
        del self._read["genes.parquet", names]
        gene, pcc, ceiling = map(table.column, names)
        return gene.to_numpy(), pcc.to_numpy(), ceiling.to_numpy()

    def _table(self, name: str, columns: tuple[str, ...] | None = None) -> pa.Table:
        if (name, columns) not in self._read:
            tables = [
                # Four times as fast as read_table on files of a few kilobytes.
                pq.ParquetFile(pa.BufferReader((folder / name).read_bytes())).read(
                    columns, use_threads=False
                )
                for folder in (self.folder.fold(index).path for index in self.done)
            ]
            whole = pa.concat_tables(tables, promote_options="permissive") if tables else None
            self._read[name, columns] = pa.table({}) if whole is None else whole
        return self._read[name, columns]


def stored_run(folder: RunFolder, use: Use = "tables") -> StoredRun | None:
    """A run as it lies on disk, None where nothing is; `use` as of :meth:`FoldFolder.state`."""
    facts = read_run(folder.path)
    if facts is None or facts["key"] != folder.key:
        return None
    states = {index: folder.fold(index).state(use) for index in range(int(facts["n_folds"]))}
    done = tuple(index for index, state in states.items() if state.done)
    damaged = {index: state.damage for index, state in states.items() if state.damage}
    return StoredRun(folder, facts, done, damaged)


def stored_runs(results: Path, dataset: str, protocol: str, use: Use = "tables") -> list[StoredRun]:
    """All runs on a dataset under a protocol, oldest first; those of damaged records are left out.

    See :func:`damaged_records` for the latter, and :meth:`FoldFolder.state` for `use`.
    """

    def read(path: Path) -> StoredRun | None:
        facts = read_run(path.parent)
        return None if facts is None else stored_run(RunFolder(path.parent, facts["key"]), use)

    paths = sorted((results / "runs" / dataset / protocol).glob(f"*/{RUN}"))
    # One after another: threads wait for one another longer than for the disk.
    runs = [run for run in map(read, paths) if run is not None]
    return sorted(runs, key=lambda run: str(run.facts.get("created", "")))


def damaged_records(results: Path, dataset: str, protocol: str) -> list[Path]:
    """Files ``run.json`` that are damaged or were edited."""
    paths = sorted((results / "runs" / dataset / protocol).glob(f"*/{RUN}"))
    return [path for path in paths if read_run(path.parent) is None]


def stored_names(results: Path) -> dict[str, list[str]]:
    """Datasets that have runs, each with its protocols."""
    names: dict[str, list[str]] = {}
    for path in sorted((results / "runs").glob("*/*")):
        if path.is_dir():
            names.setdefault(path.parent.name, []).append(path.name)
    return names


def protocols_with_runs(results: Path, dataset: str, protocol: str | None = None) -> list[str]:
    """Protocols under which a dataset has stored runs: all, or the one that is named.

    Raises
    ------
    UnknownNameError
        No runs on the dataset, or none under the protocol.
    BenchError
        No runs in the folder.
    """
    stored = stored_names(results)
    if not stored:
        raise BenchError(f"{results}: no runs here; make some with 'bench run'")
    if dataset not in stored:
        raise UnknownNameError(f"dataset in {results}", dataset, stored)
    if protocol is not None and protocol not in stored[dataset]:
        raise UnknownNameError(f"protocol with runs on {dataset}", protocol, stored[dataset])
    return [protocol] if protocol else stored[dataset]

"""Comparison of folds and data of foreign runs with those on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.data.card import DatasetCard
from bench.data.folders import is_here
from bench.errors import BenchError
from bench.execute.division import divide
from bench.files import one_line
from bench.protocol.rules import Protocol
from bench.registry import dataset_card, find_datasets
from bench.sharing.reading import ArchivedRun
from bench.stored_runs import stored_runs


@dataclass(frozen=True)
class DataComparison:
    """Folds and data of the runs on one dataset under one set of rules.

    Attributes
    ----------
    dataset, protocol
        Names.
    against
        What they were compared with; empty where there is nothing here.
    differences
        One line for each that is different.
    unknown
        Why the data themselves were not compared; empty where they were.
    """

    dataset: str
    protocol: str
    against: tuple[str, ...]
    differences: tuple[str, ...]
    unknown: str

    @property
    def said(self) -> str:
        """Result in one line."""
        where = f"{self.dataset}, protocol {self.protocol}"
        if self.differences:
            return f"{where}: {self.differences[0]}"
        if not self.against:
            return f"{where}: folds and data were not compared ({self.unknown})"
        text = f"{where}: folds and data are those of {' and of '.join(self.against)}"
        return (
            f"{text}; the data themselves were not compared ({self.unknown})"
            if (self.unknown)
            else text
        )


@dataclass(frozen=True)
class _NamedData:
    card: DatasetCard | None
    data_root: Path | None


@dataclass(frozen=True)
class _Identity:
    folds: str
    data: frozenset[str]


def compare_data(
    runs: Sequence[ArchivedRun],
    results: Path | None = None,
    card: DatasetCard | None = None,
    data_root: Path | None = None,
) -> list[DataComparison]:
    """Compare runs with the runs of a results folder and with the dataset, where it is here.

    Runs under other rules of the same name are no contradiction: tables mark them.

    Parameters
    ----------
    runs
        Runs of an archive.
    results
        Results folder; None: only with the dataset.
    card, data_root
        A dataset that has no name here, and the folder of its files.
    """
    groups: dict[tuple[str, str, str], list[ArchivedRun]] = {}
    for run in runs:
        place = (run.facts["dataset"], run.facts["protocol"], run.facts["protocol_hash"])
        groups.setdefault(place, []).append(run)
    return [
        _compared(*place, group, results, _NamedData(card, data_root))
        for place, group in sorted(groups.items())
    ]


def _compared(
    dataset: str,
    protocol: str,
    rules: str,
    runs: Sequence[ArchivedRun],
    results: Path | None,
    place: _NamedData,
) -> DataComparison:
    against, differences = [], []
    here = stored_runs(results, dataset, protocol) if results is not None else []
    stored = [run.facts for run in here if run.facts["protocol_hash"] == rules and not run.origin]
    if stored:
        against.append("the runs here")
        for run in runs:
            known = {facts["folds_hash"] for facts in stored}
            if run.facts["folds_hash"] not in known:
                differences.append(_different(run, "folds", known, "the runs here"))
            elif "aliases" not in run.facts:
                differences += _other_counts(run, stored)
    identity = _identity(dataset, runs[0].facts, place)
    if isinstance(identity, str):
        return DataComparison(dataset, protocol, tuple(against), tuple(differences), identity)
    against.append("the dataset here")
    for run in runs:
        if run.facts["folds_hash"] != identity.folds:
            differences.append(_different(run, "folds", {identity.folds}, "the dataset here"))
        elif identity.data and run.facts["dataset_hash"] not in identity.data:
            differences.append(_different(run, "dataset", identity.data, "the dataset here"))
    return DataComparison(dataset, protocol, tuple(against), tuple(differences), "")


def _other_counts(run: ArchivedRun, stored: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line where neither tables nor files of a run are those of any stored one."""
    for what in ("tables", "dataset"):
        known = {facts.get(f"{what}_hash") for facts in stored}
        if run.facts.get(f"{what}_hash") in known - {None}:
            return []
    tables = {facts.get("tables_hash") for facts in stored if "aliases" not in facts} - {None}
    return [_different(run, "tables", tables, "the runs here")] if tables else []


_NAMES = {"folds": "folds", "tables": "counts or their reader", "dataset": "files"}


def _different(run: ArchivedRun, what: str, known: Any, where: str) -> str:
    own = str(run.facts.get(f"{what}_hash"))[:12]
    others = ", ".join(sorted(str(one)[:12] for one in known))
    return f"{run.label}: its {_NAMES[what]} ({own}) are not those of {where} ({others})"


def _identity(dataset: str, facts: dict[str, Any], place: _NamedData) -> _Identity | str:
    """Hashes of the dataset on this machine under the rules of a run, or why there are none."""
    own = place.card is not None and place.card.name == dataset
    if not own and dataset not in find_datasets():
        return "the dataset is not known here"
    if facts.get("test_dataset"):
        return "the test is on another dataset"
    try:
        card = place.card if own and place.card is not None else dataset_card(dataset)
        data_root = place.data_root if own else None
        if not is_here(card, data_root):
            return "the dataset is not here"
        rules = Protocol.model_validate(facts["rules"])
        if rules.hash != facts["protocol_hash"]:
            return "its rules are of another version"
        opened, folds, _ = divide(card, rules, data_root, images=False)
        hashes = {opened.hash_without_images}
        try:
            hashes.add(divide(card, rules, data_root, images=True)[0].hash)
        except BenchError:
            hashes = set()  # images are not here; runs that read them cannot be compared
        return _Identity(folds.hash, frozenset(hashes))
    except (BenchError, ValidationError, KeyError) as error:
        return one_line(error)

"""Results of another laboratory, taken into a results folder beside one's own.

An imported run lies beside those made here, in a folder of its own that also bears the hash of
its file: ``runs/<dataset>/<protocol>/<method>-<key>-<file hash>``. ``bench run`` never takes it
for a run of its own. Its ``run.json`` says where it comes from (``origin``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.errors import DataError
from bench.evaluate.oracles import ORACLES
from bench.files import atomic_write, one_line
from bench.protocol.folds import write_folds
from bench.records import write_record
from bench.registry import find_methods
from bench.report.repeats import agreement
from bench.report.tables import newest
from bench.sharing.archive import STUDY, SUFFIX, ResultsArchive, open_archive
from bench.sharing.portable import record_bytes
from bench.sharing.reading import ArchivedRun, read_runs
from bench.sharing.same_data import DataComparison, compare_data
from bench.staging import flush, put_in_place, staging_folder
from bench.store import RUN, RunFolder, check_writable, folds_folder, not_writable
from bench.stored_runs import StoredRun, stored_run, stored_runs

IMPORTS = "imports"
"""Folder of a results folder that keeps a record of each imported file."""

_LONGEST_NAME = 60
_ENOUGH = 8
"""Characters of a file's hash in the name of a folder."""


@dataclass(frozen=True)
class Repetition:
    """A run of the file that another source has as well, and how well they agree."""

    label: str
    key: str
    source: str
    said: str
    equal: bool


@dataclass(frozen=True)
class ImportedResults:
    """What an import did.

    Attributes
    ----------
    origin
        Name of the source.
    imported, known
        Runs that were taken in, and those that the same file had brought before.
    comparisons
        How folds and data compare with those here.
    unknown_methods
        Names of methods that are not installed here.
    repetitions
        Runs that are here from another source.
    """

    origin: str
    imported: tuple[ArchivedRun, ...]
    known: tuple[ArchivedRun, ...]
    comparisons: tuple[DataComparison, ...]
    unknown_methods: tuple[str, ...]
    repetitions: tuple[Repetition, ...]


def import_results(
    path: Path, results: Path, *, name: str = "", other_data: bool = False
) -> ImportedResults:
    """Take the runs of a file into a results folder.

    Everything is checked before anything is written.

    Parameters
    ----------
    path
        File written by ``bench export``.
    results
        Results folder.
    name
        Name of the source in tables; the file's own where empty.
    other_data
        Whether to keep runs on folds or data that differ from those here; tables mark them.

    Raises
    ------
    DataError
        The file is damaged, hostile or no results archive, or its runs are on other data.
    StoreError
        The folder cannot be written.
    """
    origin = _origin_name(name or path.name.removesuffix(SUFFIX))
    with open_archive(path) as archive:
        runs = read_runs(archive)
        study = archive.read(STUDY) if STUDY in archive.index.files else None
        comparisons = compare_data(runs, results)
        different = [one for one in comparisons if one.differences]
        if different and not other_data:
            raise DataError(
                f"{path}: {different[0].said}; --other-data imports them, marked in the tables"
            )
        _check_keys(path, results, runs)
        facts = {"name": origin, "file": one_line(path.name, 100), "sha256": archive.sha256}
        check_writable(results)
        known = [run for run in runs if _is_here(results, run, archive.sha256)]
        new = [run for run in runs if run not in known]
        _land(archive, results, new, facts)
        _keep_record(archive, results, facts, runs, study)
    installed = {*find_methods(), *ORACLES}
    named = {str(run.facts["method"]) for run in runs if run.facts["method"]}
    return ImportedResults(
        origin=origin,
        imported=tuple(new),
        known=tuple(known),
        comparisons=tuple(comparisons),
        unknown_methods=tuple(sorted(named - installed)),
        repetitions=tuple(_repetitions(results, runs)),
    )


_OF_A_KEY = ("label", "seed", "folds_hash", "protocol_hash", "dataset_hash")
"""Facts that runs with one key share."""


def _check_keys(path: Path, results: Path, runs: Sequence[ArchivedRun]) -> None:
    """Refuse a run whose key is that of a run here on other folds or data, which no key can be."""
    by_key = {run.facts["key"]: run for run in runs}
    if len(by_key) < len(runs):
        raise DataError(f"{path}: two of its runs have one key; it was changed")
    for dataset, protocol in {(run.folds.dataset, run.folds.protocol) for run in runs}:
        for here in stored_runs(results, dataset, protocol):
            run = by_key.get(here.facts["key"])
            for name in _OF_A_KEY if run is not None else ():
                if run is not None and run.facts[name] != here.facts[name]:
                    raise DataError(
                        f"{path}: {run.label} has the key of a run here ({run.facts['key'][:12]})"
                        f" and another {name.replace('_', ' ')}; one of the two was changed"
                    )


def _origin_name(name: str) -> str:
    shown = one_line(name.strip(), 10 * _LONGEST_NAME)
    if not shown or len(shown) > _LONGEST_NAME:
        raise DataError(f"--name: write a name of 1 to {_LONGEST_NAME} characters for the source")
    return shown


def imported_folder(results: Path, run: ArchivedRun, sha256: str) -> Path:
    """Folder in which a run of a file lies."""
    return results / f"{run.folder}-{sha256[:_ENOUGH]}"


def _is_here(results: Path, run: ArchivedRun, sha256: str) -> bool:
    here = stored_run(RunFolder(imported_folder(results, run, sha256), run.facts["key"]), "run")
    return here is not None and here.done == run.done


def _land(
    archive: ResultsArchive, results: Path, runs: Sequence[ArchivedRun], origin: dict[str, str]
) -> None:
    with staging_folder(results, "import") as staged:
        made = []
        for number, run in enumerate(runs):
            folder = staged / str(number)
            for name in run.files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with open(folder / name, "wb") as stream:
                    if name == RUN:
                        stream.write(record_bytes({**run.facts, "origin": origin}))
                    else:
                        archive.copy(f"{run.folder}/{name}", stream)
            made.append((folder, imported_folder(results, run, origin["sha256"])))
        flush(staged)
        for run in runs:
            of = run.folds
            write_folds(folds_folder(results, of.dataset, of.protocol), of)
        for folder, target in made:
            put_in_place(folder, target)


def _keep_record(
    archive: ResultsArchive,
    results: Path,
    origin: dict[str, str],
    runs: Sequence[ArchivedRun],
    study: bytes | None,
) -> None:
    folder = results / IMPORTS
    begin = origin["sha256"][:_ENOUGH]
    record = {
        "name": origin["name"],
        "file": origin["file"],
        "file_sha256": origin["sha256"],
        "spotbench": one_line(archive.index.spotbench, 100),
        "imported": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": sorted(run.facts["key"] for run in runs),
        "study": hashlib.sha256(study).hexdigest() if study is not None else None,
    }
    try:
        if study is not None:
            with atomic_write(folder / f"{begin}-{STUDY}") as temporary:
                temporary.write_bytes(study)
        write_record(folder / f"{begin}.json", record)
    except OSError as error:
        raise not_writable(results, error) from error


def _repetitions(results: Path, runs: Sequence[ArchivedRun]) -> list[Repetition]:
    keys = {run.facts["key"] for run in runs}
    repetitions = []
    for dataset, protocol in sorted({(run.folds.dataset, run.folds.protocol) for run in runs}):
        for kept in newest(stored_runs(results, dataset, protocol)):
            if kept.facts["key"] in keys:
                repetitions += [_repetition(kept, repeat) for repeat in kept.repeats]
    return repetitions


def _repetition(run: StoredRun, repeat: StoredRun) -> Repetition:
    sources = " and ".join(of.origin.get("name", "here") for of in (run, repeat))
    found = agreement(run, repeat)
    return Repetition(
        run.facts["label"], run.facts["key"], sources, found.said, found.difference == 0
    )

"""The runs of a results archive, checked before anything of them is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile
from typing import Any

from pydantic import ValidationError

from bench.data.reading.hdf5 import open_hdf5
from bench.errors import DataError
from bench.faults import first_fault
from bench.inventory import GIVEN
from bench.protocol.folds import Fold, Folds
from bench.sharing.archive import ResultsArchive
from bench.sharing.records import (
    SharedFold,
    SharedLabel,
    SharedManifest,
    SharedRun,
    checked,
    checked_table,
    without_hash,
)
from bench.store import MANIFEST, RUN, folder_name

PREDICTIONS = "predictions.h5ad"
_NEEDED = {"fold.json", "scores.parquet", "genes.parquet"}


@dataclass(frozen=True)
class ArchivedRun:
    """One run of an archive, whose records and tables have been checked.

    Attributes
    ----------
    folder
        Its folder in the archive.
    facts
        Contents of ``run.json`` without its hash.
    folds
        Division of the sections that it was run on.
    done
        Numbers of the folds in the archive.
    files
        Names of its files, below its folder.
    """

    folder: str
    facts: dict[str, Any]
    folds: Folds
    done: tuple[int, ...]
    files: tuple[str, ...]

    @property
    def label(self) -> str:
        """Row of the run in tables."""
        return str(self.facts["label"])


def read_runs(archive: ResultsArchive) -> list[ArchivedRun]:
    """All runs of an archive.

    Raises
    ------
    DataError
        A file differs from its hash, a record or table is not what it should be, or they
        contradict one another.
    """
    by_folder: dict[str, list[str]] = {}
    for name in archive.index.files:
        if name.startswith("runs/"):
            by_folder.setdefault("/".join(name.split("/")[:4]), []).append(name)
    if set(by_folder) != set(archive.index.runs):
        raise DataError(f"{archive.path}: its index does not list the runs in it")
    divisions = {
        name: _read_folds(archive, name) for name in archive.index.files if name[:6] == "folds/"
    }
    return [
        _read_run(archive, folder, sorted(names), divisions)
        for folder, names in sorted(by_folder.items())
    ]


def _read_folds(archive: ResultsArchive, name: str) -> Folds:
    try:
        folds = Folds.model_validate(archive.json(name))
    except ValidationError as error:
        raise DataError(f"{archive.path}: {name}: {first_fault(error)}") from error
    if PurePosixPath(name).stem != f"folds-{folds.hash[:12]}":
        raise DataError(f"{archive.path}: {name} does not match the hash in its name")
    return folds


def _read_run(
    archive: ResultsArchive, folder: str, names: list[str], divisions: dict[str, Folds]
) -> ArchivedRun:
    where = f"{archive.path}: {folder}/{RUN}"
    if f"{folder}/{RUN}" not in names:
        raise DataError(f"{where} is missing")
    facts = without_hash(archive.json(f"{folder}/{RUN}"), where)
    run = checked(SharedRun, facts, where)
    if (given := f"{folder}/{GIVEN}") in names:
        place = f"{archive.path}: {given}"
        checked(SharedLabel, without_hash(archive.json(given), place), place)
    _, dataset, protocol, name = folder.split("/")
    if (run.dataset, run.protocol) != (dataset, protocol) or name != (
        f"{folder_name(run.label)}-{run.key[:12]}"
    ):
        raise DataError(f"{where}: is of another run than its folder")
    place = f"folds/{dataset}/{protocol}/folds-{run.folds_hash[:12]}.json"
    folds = divisions.get(place)
    if folds is None:
        raise DataError(f"{archive.path}: {place} is missing")
    stated = (folds.hash, folds.dataset, folds.protocol, folds.protocol_hash, len(folds.folds))
    if stated != (run.folds_hash, dataset, protocol, run.protocol_hash, run.n_folds):
        raise DataError(f"{where}: its folds are not those of {place}")
    files = [name.removeprefix(f"{folder}/") for name in names]
    numbers = sorted({int(name.split("/")[0][5:]) for name in files if "/" in name})
    if not numbers:
        raise DataError(f"{archive.path}: {folder} has no fold")
    by_index = {fold.index: fold for fold in folds.folds}
    for number in numbers:
        if number not in by_index:
            raise DataError(f"{archive.path}: {folder} has a fold {number}, which its folds lack")
        own = {name.split("/")[1] for name in files if name.startswith(f"fold-{number}/")}
        _check_fold(archive, f"{folder}/fold-{number}", own, run, by_index[number], folds)
    return ArchivedRun(folder, facts, folds, tuple(numbers), tuple(files))


def _check_fold(
    archive: ResultsArchive, folder: str, names: set[str], run: SharedRun, fold: Fold, folds: Folds
) -> None:
    where = f"{archive.path}: {folder}"
    if missing := sorted({MANIFEST, *_NEEDED} - names):
        raise DataError(f"{where}/{missing[0]} is missing")
    content = without_hash(archive.json(f"{folder}/{MANIFEST}"), f"{where}/{MANIFEST}")
    manifest = checked(SharedManifest, content, f"{where}/{MANIFEST}")
    if (manifest.run, manifest.fold) != (run.key, fold.index):
        raise DataError(f"{where}/{MANIFEST}: is of another run or fold")
    if set(manifest.files) != names - {MANIFEST}:
        raise DataError(f"{where}/{MANIFEST}: names other files than there are")
    for name, file in manifest.files.items():
        indexed = archive.index.files[f"{folder}/{name}"]
        if (file.sha256, file.size) != (indexed.sha256, indexed.size):
            raise DataError(f"{where}/{name}: its hash differs from the one in {MANIFEST}")
    about = checked(SharedFold, archive.json(f"{folder}/fold.json"), f"{where}/fold.json")
    # Fewer patients may have been trained on than the fold offers.
    offered = {*about.train} <= {*fold.train} and {*about.validation} <= {*fold.validation}
    if not offered or (about.fold, tuple(about.test)) != (fold.index, fold.test):
        raise DataError(f"{where}/fold.json: its sections are not those of the folds file")
    for name in sorted(names & {"scores.parquet", "genes.parquet", "curves.parquet"}):
        places = checked_table(name, archive.read(f"{folder}/{name}"), f"{where}/{name}")
        if name != "curves.parquet":
            _check_sections(places, fold, _patients(run, folds), f"{where}/{name}")
    if PREDICTIONS in names:
        _check_predictions(archive, f"{folder}/{PREDICTIONS}")


def _patients(run: SharedRun, folds: Folds) -> dict[str, str]:
    """Patient of each section as tables have it: folds put another test dataset's name before."""
    prefix = f"{run.test_dataset.get('name')}:" if run.test_dataset else ""
    return {name: patient.removeprefix(prefix) for name, patient in folds.patients.items()}


def _check_sections(
    places: set[tuple[int, str, str]], fold: Fold, patients: Mapping[str, str], where: str
) -> None:
    """Compare fold, sections and patients of a table with the folds: intervals rest on them."""
    of_test = {(fold.index, name, patients[name]) for name in fold.test}
    if places - of_test - {(fold.index, "", "")}:
        raise DataError(f"{where}: has a row that is not of the test sections of its fold")
    if of_test - places:
        raise DataError(f"{where}: a test section is missing")


def _check_predictions(archive: ResultsArchive, name: str) -> None:
    """Refuse an HDF5 file that points elsewhere; values are compared with their hash alone."""
    with NamedTemporaryFile(suffix=".h5ad") as temporary:
        archive.copy(name, temporary)
        temporary.flush()
        try:
            with open_hdf5(Path(temporary.name)) as file:
                shape = file.shape("X")
        except DataError as error:
            text = str(error).replace(temporary.name, name)
            raise DataError(f"{archive.path}: {text}") from error
    if len(shape) != 2:
        raise DataError(f"{archive.path}: {name}: its predictions are no matrix")
